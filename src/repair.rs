//! The job that brings every zone to hold every object.

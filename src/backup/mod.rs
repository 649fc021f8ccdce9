//! The job that copies one node.

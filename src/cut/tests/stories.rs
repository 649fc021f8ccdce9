//! Cuts of histories that can be read.

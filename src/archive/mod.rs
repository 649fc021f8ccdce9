//! The job that keeps one node's WAL.

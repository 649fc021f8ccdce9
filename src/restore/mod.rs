//! The job that makes a new cluster.

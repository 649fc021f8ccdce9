//! The job that makes a new cluster.

pub mod plan;
pub mod window;

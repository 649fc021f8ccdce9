//! What was written in the configuration file, and what it means.

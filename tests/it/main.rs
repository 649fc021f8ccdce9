//! All integration tests: one binary, one link.

mod tidy;

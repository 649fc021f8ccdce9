//! Three object stores as one: quorum write, first good read, repair.

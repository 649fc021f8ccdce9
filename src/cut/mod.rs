//! Which moment is consistent on all nodes, and why.

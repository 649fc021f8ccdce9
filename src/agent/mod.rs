//! The sidecar beside one node.

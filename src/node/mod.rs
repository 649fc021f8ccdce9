//! One live PostgreSQL node: its SQL session, its replication stream, its data directory.

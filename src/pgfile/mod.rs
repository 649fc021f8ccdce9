//! PostgreSQL's files: pages and their checksums, `pg_control`, two-phase state files, and which files a backup copies.

//! The job that deletes what retention allows.

//! What a backup tells of itself while it runs.

/// Where a backup is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Waiting for the server's checkpoint.
    Starting,
    Copying,
    /// Waiting until the WAL that it needs is in the zones.
    AwaitingWal,
    Finishing,
}

/// Is told; called from several threads, and must not block.
pub trait Progress: Send + Sync {
    fn phase(&self, _phase: Phase) {}

    /// So many bytes there are to read; files change, so this is an estimate.
    fn total(&self, _bytes: u64) {}

    /// So many more bytes have been read.
    fn read(&self, _bytes: u64) {}
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {}

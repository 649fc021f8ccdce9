//! Decodes the stream beside its way to the zones, on a thread of its own.
//!
//! What cannot be decoded is archived all the same: bytes come first, an index can be made again.

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::status::{Mishap, Status};
use crate::lsn::Lsn;
use crate::manifest::wal_index::WalIndex;
use crate::wal;
use crate::wal::index::IndexBuilder;

/// Pieces on their way to the thread: at most 128 KiB each.
const PIECES_MAX: usize = 32;

/// Makes indexes of the bytes from some position on.
pub(super) struct Indexer {
    builder: IndexBuilder,
    /// The position of the next byte that comes.
    at: Lsn,
    /// No record begins before: the rest of a segment that was switched away from is zeros.
    from: Lsn,
}

impl Indexer {
    /// Bytes will come from `at` on; `builder` begins at `from`, there or later.
    pub(super) fn new(builder: IndexBuilder, at: Lsn, from: Lsn) -> Self {
        Indexer { builder, at, from }
    }

    /// Takes in the bytes that follow; returns the indexes that they finished.
    pub(super) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<WalIndex>, wal::Error> {
        let early = usize::try_from(self.from.0.saturating_sub(self.at.0)).unwrap_or(usize::MAX);
        self.at = self.at.plus(bytes.len() as u64);
        self.builder.feed(bytes.get(early..).unwrap_or_default())
    }

    pub(super) fn decoded_to(&self) -> Lsn {
        self.builder.decoded_to()
    }

    /// Returns the index of the unfinished segment as far as it was decoded.
    pub(super) fn tail(self) -> WalIndex {
        self.builder.tail()
    }
}

pub(super) struct Decoder {
    pieces: mpsc::Sender<Bytes>,
    /// Not bounded by itself: there is one index a segment, and the keeper takes in only so many segments.
    indexes: mpsc::UnboundedReceiver<WalIndex>,
    thread: JoinHandle<Option<WalIndex>>,
}

impl Decoder {
    /// Starts the thread; where it cannot go on, it says so in the status.
    pub(super) fn start(indexer: Indexer, status: watch::Sender<Status>) -> Self {
        let (pieces, input) = mpsc::channel(PIECES_MAX);
        let (output, indexes) = mpsc::unbounded_channel();
        let thread = tokio::task::spawn_blocking(move || decode(indexer, input, output, &status));
        Decoder { pieces, indexes, thread }
    }

    /// Takes in the next bytes of the stream.
    pub(super) async fn feed(&self, piece: Bytes) {
        // The thread ends early only where it cannot decode, and said so.
        let _ = self.pieces.send(piece).await;
    }

    /// Returns the next finished index; `None` when there will be no more. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<WalIndex> {
        self.indexes.recv().await
    }

    /// Ends decoding; returns the indexes not taken yet and that of the last segment as far as it came.
    pub(super) async fn finish(mut self) -> (Vec<WalIndex>, Option<WalIndex>) {
        drop(self.pieces);
        let mut rest = Vec::new();
        while let Some(index) = self.indexes.recv().await {
            rest.push(index);
        }
        (rest, self.thread.await.ok().flatten())
    }
}

fn decode(
    mut indexer: Indexer,
    mut pieces: mpsc::Receiver<Bytes>,
    indexes: mpsc::UnboundedSender<WalIndex>,
    status: &watch::Sender<Status>,
) -> Option<WalIndex> {
    while let Some(piece) = pieces.blocking_recv() {
        match indexer.feed(&piece) {
            Ok(finished) => finished.into_iter().for_each(|index| {
                let _ = indexes.send(index); // nobody listens only when we stop
            }),
            Err(error) => {
                let why = Mishap::now(&error);
                tracing::error!(error = why.text, at = %indexer.decoded_to(), "WAL cannot be decoded; archiving goes on without an index");
                status.send_modify(|status| status.last_error = Some(why));
                return None;
            }
        }
    }
    Some(indexer.tail())
}

//! Decodes the stream beside its way to the zones, on a thread of its own.
//!
//! What cannot be decoded is archived all the same: bytes come first, an index can be made again.

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::status::{Mishap, Status};
use crate::manifest::wal_index::WalIndex;
use crate::wal::index::IndexBuilder;

/// Pieces on their way to the thread: at most 128 KiB each.
const PIECES_MAX: usize = 32;

pub(super) struct Decoder {
    pieces: mpsc::Sender<Bytes>,
    /// Not bounded by itself: there is one index a segment, and the keeper takes in only so many segments.
    indexes: mpsc::UnboundedReceiver<WalIndex>,
    thread: JoinHandle<Option<WalIndex>>,
}

impl Decoder {
    /// Starts the thread; where it cannot go on, it says so in the status.
    pub(super) fn start(builder: IndexBuilder, status: watch::Sender<Status>) -> Self {
        let (pieces, input) = mpsc::channel(PIECES_MAX);
        let (output, indexes) = mpsc::unbounded_channel();
        let thread = tokio::task::spawn_blocking(move || decode(builder, input, output, &status));
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
    mut builder: IndexBuilder,
    mut pieces: mpsc::Receiver<Bytes>,
    indexes: mpsc::UnboundedSender<WalIndex>,
    status: &watch::Sender<Status>,
) -> Option<WalIndex> {
    while let Some(piece) = pieces.blocking_recv() {
        match builder.feed(&piece) {
            Ok(finished) => finished.into_iter().for_each(|index| {
                let _ = indexes.send(index); // nobody listens only when we stop
            }),
            Err(error) => {
                let why = Mishap::now(&error);
                tracing::error!(error = why.text, at = %builder.decoded_to(), "WAL cannot be decoded; archiving goes on without an index");
                status.send_modify(|status| status.last_error = Some(why));
                return None;
            }
        }
    }
    Some(builder.tail())
}

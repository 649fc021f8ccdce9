//! The job that keeps one node's WAL: from the replication slot to a quorum of zones.
//!
//! slot -> [`receive`] -> [`intake`] -> chunks of segments, sealed while the rest arrives -> zones
//!                     -> [`intake`] -> every second a part of the unfinished one -> zones
//!                     -> [`decode`] -> an index a segment                      -> zones
//!
//! A server that archives with a command is served by [`push`] in place of [`receive`]; [`get`] hands files back.
//!
//! Invariants: the slot moves only to what a quorum holds without a gap; a segment's index exists only
//! when that segment and all before it are held; what is in memory is bounded, and while the zones do
//! not answer the server keeps its own WAL. Killed at any moment, the next start goes on from the
//! vault ([`resume`]): the same bytes put again are recognised, other bytes are refused.

mod branch;
mod decode;
mod error;
mod get;
mod held;
mod intake;
mod keep;
mod push;
mod receive;
mod resume;
mod sealers;
mod shelf;
mod status;

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::ids::NodeName;
use crate::lsn::Lsn;
use crate::node::{ConnectionOptions, NodeFacts};
use crate::vault::{Vault, kept_segment_bytes};
use keep::Keeper;
use receive::Receiver;
use sealers::Sealers;
use shelf::Shelf;

pub use error::{Error, Gap};
pub use get::get;
pub use push::{Push, PushError, ask};
pub use status::{Mishap, Status};

/// Where the WAL comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// The server's replication slot.
    Stream,
    /// Its `pg_wal`, for a server that archives with a command.
    Push(Push),
}

/// What the archiver needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    pub node: NodeName,
    pub connection: ConnectionOptions,
    /// Name of the physical replication slot.
    pub slot: String,
    /// As first seen: a server with another one is refused.
    pub system_identifier: String,
    /// As the vault keeps them.
    pub segment_bytes: u32,
    /// As the server writes them.
    pub server_segment_bytes: u32,
    pub source: Source,
    /// zstd level.
    pub level: i32,
    /// How often the unfinished segment is sent.
    pub part_every: Duration,
    /// How long a stop may wait for the zones.
    pub stop_within: Duration,
}

impl Options {
    /// Options for the server that said these facts.
    pub fn of(node: NodeName, connection: ConnectionOptions, slot: String, facts: &NodeFacts) -> Self {
        Options {
            node,
            connection,
            slot,
            system_identifier: facts.system_identifier.clone(),
            segment_bytes: kept_segment_bytes(facts.segment_bytes),
            server_segment_bytes: facts.segment_bytes,
            source: Source::Stream,
            level: 1,
            part_every: Duration::from_secs(1),
            stop_within: Duration::from_secs(10),
        }
    }
}

/// Pieces of WAL between the server's side and the zones' side, of at most 128 KiB each.
const PIECES_MAX: usize = 32;

/// Archives until `shutdown`, or until an error that trying again cannot help.
pub async fn run(
    options: Options,
    vault: Vault,
    shutdown: CancellationToken,
    status: watch::Sender<Status>,
) -> Result<(), Error> {
    let give_up = CancellationToken::new();
    let shelf = Shelf {
        vault,
        node: options.node.clone(),
        segment_bytes: options.segment_bytes,
        server_segment_bytes: options.server_segment_bytes,
        level: options.level,
        sealers: Sealers::start(),
        status,
        give_up: give_up.clone(),
    };
    let stop_within = options.stop_within;
    let over = CancellationToken::new();
    let working = async {
        match options.source.clone() {
            Source::Stream => stream(options, shelf, &shutdown, &over).await,
            Source::Push(push) => push::run(&push, &options, shelf, shutdown.clone()).await,
        }
    };
    let patience = async {
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = over.cancelled() => {}
        }
        tokio::time::sleep(stop_within).await;
        give_up.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        ended = working => ended,
        () = patience => Err(Error::Stopped),
    }
}

/// Archives what the server streams; `over` is cancelled when nothing more comes.
async fn stream(
    options: Options,
    shelf: Shelf,
    shutdown: &CancellationToken,
    over: &CancellationToken,
) -> Result<(), Error> {
    let (events, pieces) = mpsc::channel(PIECES_MAX);
    let (held, told) = watch::channel(Lsn::INVALID);
    let keeping = Keeper::new(shelf.clone(), options.part_every, held).run(pieces);
    let receiver = Receiver::new(options, shelf, events, told, shutdown.clone());
    let receiving = async {
        let received = receiver.run().await;
        over.cancel();
        received
    };
    let (received, kept) = futures::future::join(receiving, keeping).await;
    // The keeper's own failure stops the receiver, so it is the one to tell.
    kept.and(received)
}

//! The job that makes a new cluster.
//!
//! plan -> preflight (everything that can be refused) -> files -> replay to the cut, proved -> prepared
//! transactions settled -> metadata of the new cluster -> first start with Citus -> closed -> report
//!
//! Invariants: no connection to the source is ever opened (every server we start is reachable over a
//! private socket only, and Citus is not loaded before its metadata names the new cluster alone); nothing
//! is written where something exists (but for [`RestoreOptions::delta`], asked for by name); each stage can be run again after a crash; all nodes are promoted
//! before anything is settled on any.

mod begin;
mod conf;
mod error;
mod fetch;
mod former;
mod install;
mod landing;
mod layout;
mod ledger;
mod metadata;
mod open;
pub mod plan;
mod preflight;
mod private;
mod recovery;
mod report;
mod server;
mod settle;
mod spool;
mod store;
mod targets;
pub mod window;
mod work;

use std::path::PathBuf;
use std::sync::Arc;

use crate::clock;
use crate::flow;
use crate::ids::NodeName;

pub use begin::{check, unfinished};
pub use error::Error;
pub use landing::{Looked, Proof};
pub use ledger::Stage;
pub use metadata::Readdressed;
pub use open::Checked;
pub use report::{Figures, NodeReport, Report};
pub use settle::{Foreign, Settled};
pub use spool::{WAL_FROM_SPOOL, deliver};
pub use store::Store;
pub use targets::{Target, Targets};

use begin::Begun;
use metadata::Address;
use plan::Plan;
use work::Work;

/// Nodes whose files are fetched at the same time; they share what is under way, and the cores.
const FETCHED_AT_ONCE: usize = 4;
/// Nodes that replay, settle or start at the same time.
const NODES_AT_ONCE: usize = 16;

/// How to carry out a plan.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    pub targets: Targets,
    /// Folder of PostgreSQL's programs; found by version where `None`.
    pub bin_dir: Option<PathBuf>,
    /// Who owns the data directories and runs the servers; we are this user, or root.
    pub os_user: String,
    /// The pitrus program, for `restore_command`.
    pub program: PathBuf,
    /// Leave the new cluster running.
    pub start: bool,
    /// Targets may be stopped copies of their nodes: what is the same there is kept, all else is overwritten
    /// or removed.
    pub delta: bool,
}

/// What a node's restore has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Bytes of files that are in place.
    Fetched { bytes: u64, of: u64 },
    /// A stage is done.
    Reached(Stage),
}

/// Is told of every step; called from any thread, and must not block.
pub type Progress = Arc<dyn Fn(&NodeName, Step) + Send + Sync>;

/// Carries out a plan: returns when the new cluster is closed, checked and reported.
pub async fn run<S: Store>(
    options: &RestoreOptions,
    store: S,
    plan: Plan,
    progress: Progress,
) -> Result<Report, Error> {
    let began = clock::now();
    let Begun { works, folder, private } = begin::begin(options, &store, &plan, progress).await?;
    let addresses: Vec<Address> = works.iter().filter_map(Work::address).collect();
    let share = fetch::Share::new();
    let works = each(works, FETCHED_AT_ONCE, async |work| work.fetch(&store, &share).await).await?;
    let works = each(works, NODES_AT_ONCE, async |work| work.land(store.clone()).await).await?;
    // From here on every node has landed.
    let mut decisions = settle::Decisions::new();
    for work in &works {
        decisions.extend(work.decisions().await?);
    }
    let works = each(works, NODES_AT_ONCE, async |work| work.settle(&decisions, &addresses).await).await?;
    // From here on no node names the source.
    let mut works = each(works, NODES_AT_ONCE, async |work| work.open().await).await?;
    drop(private);
    if options.start {
        works = each(works, NODES_AT_ONCE, async |work| open::start(&work.instance).await).await?;
    }
    let report = report::of(options, &plan, began, &works);
    report.write(&folder)?;
    Ok(report)
}

/// Does one step for every node, to the end; where one fails, stops all servers and returns its error.
async fn each(
    works: Vec<Work>,
    at_once: usize,
    step: impl AsyncFn(&mut Work) -> Result<(), Error>,
) -> Result<Vec<Work>, Error> {
    let step = &step;
    let done = flow::map(works, at_once, |mut work| async move {
        let result = step(&mut work).await;
        (work, result)
    });
    let (mut works, mut failed) = (Vec::new(), None);
    for (work, result) in done.await {
        works.push(work);
        if let Err(error) = result {
            tracing::debug!(%error, "a node failed");
            failed = failed.or(Some(error));
        }
    }
    let Some(error) = failed else { return Ok(works) };
    flow::map(works, NODES_AT_ONCE, |mut work| async move { work.abandon().await }).await;
    Err(error)
}

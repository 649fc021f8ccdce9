//! Progress on a terminal: a bar for a backup, a line a node for a restore. Where standard error is no
//! terminal, phases are logged instead.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::backup;
use crate::ids::NodeName;
use crate::restore;

fn bar_style() -> ProgressStyle {
    ProgressStyle::with_template("{prefix:12} {bar:30} {binary_bytes}/{binary_total_bytes} {msg}")
        .expect("the template is right")
}

/// The bar of one backup.
pub(super) struct Backup {
    bar: ProgressBar,
    logs: bool,
}

impl Backup {
    pub(super) fn new() -> Arc<Backup> {
        let on_terminal = std::io::stderr().is_terminal();
        let bar = if on_terminal { ProgressBar::new(0) } else { ProgressBar::hidden() };
        bar.set_style(bar_style());
        bar.set_prefix("backup");
        Arc::new(Backup { bar, logs: !on_terminal })
    }

    pub(super) fn end(&self) {
        self.bar.finish_and_clear();
    }
}

impl backup::Progress for Backup {
    fn phase(&self, phase: backup::Phase) {
        let text = match phase {
            backup::Phase::Starting => "waiting for a checkpoint",
            backup::Phase::Copying => "copying",
            backup::Phase::AwaitingWal => "waiting for its WAL to be archived",
            backup::Phase::Finishing => "writing the manifest",
        };
        self.bar.set_message(text);
        if self.logs {
            tracing::info!("backup: {text}");
        }
    }

    fn total(&self, bytes: u64) {
        self.bar.set_length(bytes);
    }

    fn read(&self, bytes: u64) {
        self.bar.inc(bytes);
    }
}

/// Returns what tells of a restore: a bar for each node.
pub(super) fn restore() -> (restore::Progress, MultiProgress) {
    let bars = MultiProgress::new();
    let shown = bars.clone();
    let on_terminal = std::io::stderr().is_terminal();
    let nodes: Mutex<BTreeMap<NodeName, ProgressBar>> = Mutex::default();
    let progress = move |node: &NodeName, step: restore::Step| {
        let bar = nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(node.clone())
            .or_insert_with(|| {
                let bar = shown.add(ProgressBar::new(0)).with_style(bar_style());
                bar.set_prefix(node.to_string());
                bar
            })
            .clone();
        match step {
            restore::Step::Fetched { bytes, of } => {
                bar.set_length(of);
                bar.set_position(bytes);
            }
            restore::Step::Reached(stage) => {
                let text = reached(stage);
                bar.set_message(text);
                if !on_terminal {
                    tracing::info!(%node, "{text}");
                }
            }
        }
    };
    (Arc::new(progress), bars)
}

fn reached(stage: restore::Stage) -> &'static str {
    use restore::Stage;
    match stage {
        Stage::Begun => "fetching",
        Stage::Fetched => "files are in place; replaying",
        Stage::Landed => "replayed to the cut, and proved",
        Stage::Settled => "prepared transactions settled",
        Stage::Addressed => "metadata names the new cluster only",
        Stage::Done => "closed and checked",
    }
}

//! What must hold on this machine: the data directory is here and readable, and the clocks agree.

use std::path::Path;

use super::line::Lines;
use crate::clock;
use crate::config::settings::Server;
use crate::ids::ClusterName;
use crate::node::{Error, NodeFacts, Session, pgdata};

/// Offsets above this are worth a word: independent one-node transactions are ordered by clocks.
const OFFSET_FINE_MICROS: i64 = 20_000;
const SAMPLES: usize = 7;

pub(super) fn data_directory(lines: &mut Lines, facts: &NodeFacts, cluster: &ClusterName) {
    let folder = &facts.data_directory;
    let subject = "data directory";
    let own = "run pitrus on the server's machine as the operating system user that owns the directory";
    match control(folder) {
        Err(problem) => lines.not_ok(subject, format!("{}: {problem}", folder.display()), own),
        Ok(found) if found != facts.system_identifier => lines.not_ok(
            subject,
            format!(
                "{} on this machine belongs to another server (system identifier {found})",
                folder.display()
            ),
            own,
        ),
        Ok(_) => lines.ok(subject, format!("{} is here and readable", folder.display())),
    }
    match pgdata::refuse_clone(folder, cluster) {
        Ok(()) => {}
        Err(error) => lines.failed("clone mark", &error),
    }
}

/// Reads the system identifier of the data directory on this machine.
fn control(folder: &Path) -> Result<String, String> {
    std::fs::read_dir(folder.join("base")).map_err(|e| e.to_string())?;
    let bytes = std::fs::read(folder.join("global/pg_control")).map_err(|e| e.to_string())?;
    // The first field (PostgreSQL src/include/catalog/pg_control.h).
    let identifier = bytes.first_chunk::<8>().ok_or("pg_control is cut off")?;
    Ok(u64::from_le_bytes(*identifier).to_string())
}

pub(super) async fn clocks(lines: &mut Lines, session: &Session, coordinator: Option<&Server>) {
    compare(lines, "clock of the server", offset(session).await);
    let Some(coordinator) = coordinator else { return };
    let subject = "clock of the coordinator";
    match coordinator.options() {
        Err(error) => lines.failed(subject, &error),
        Ok(options) => match Session::connect(&options, None).await {
            Ok(session) => compare(lines, subject, offset(&session).await),
            Err(error) => lines.failed(subject, &error),
        },
    }
}

fn compare(lines: &mut Lines, subject: &str, measured: Result<Offset, Error>) {
    match measured {
        Err(error) => lines.failed(subject, &error),
        Ok(offset) => {
            let found = format!(
                "{:+.1} ms from this machine's, give or take {:.1} ms",
                offset.micros as f64 / 1e3,
                offset.uncertain as f64 / 1e3
            );
            match offset.micros.abs() > OFFSET_FINE_MICROS + offset.uncertain {
                true => lines.advice(
                    subject,
                    found,
                    "synchronise the clocks: transactions of different nodes that have nothing in common are ordered by them",
                ),
                false => lines.ok(subject, found),
            }
        }
    }
}

/// How far a server's clock is ahead of ours, in microseconds.
struct Offset {
    micros: i64,
    /// Half of the round trip: the offset is that uncertain.
    uncertain: i64,
}

/// Asks several times and believes the quickest answer.
async fn offset(session: &Session) -> Result<Offset, Error> {
    let mut best: Option<Offset> = None;
    for _ in 0..SAMPLES {
        let before = clock::now().unix_micros();
        let query = "select (extract(epoch from clock_timestamp()) * 1000000)::int8";
        let there: i64 = session.row("read the clock", query, &[]).await?.get(0);
        let after = clock::now().unix_micros();
        let sample =
            Offset { micros: there - (before + (after - before) / 2), uncertain: (after - before) / 2 };
        if best.as_ref().is_none_or(|b| sample.uncertain < b.uncertain) {
            best = Some(sample);
        }
    }
    Ok(best.expect("at least one sample was taken"))
}

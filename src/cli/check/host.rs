//! What must hold on this machine: the data directory is here and readable, and the clocks agree.

use std::path::Path;

use super::line::Lines;
use crate::cli::info::CLOCK_FINE_MICROS;
use crate::config::settings::Server;
use crate::ids::{ClusterName, GroupId};
use crate::node::clock::{Ahead, ServerClock};
use crate::node::topology::{self, Seat};
use crate::node::{ConnectionOptions, Error, NodeFacts, pgdata};

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

pub(super) async fn clocks(
    lines: &mut Lines,
    own: &ConnectionOptions,
    coordinator: Option<&Server>,
    group: Option<GroupId>,
) {
    let subject = "clock";
    let compared = match coordinator.map(Server::options).transpose() {
        Ok(options) => against(own, options).await,
        Err(error) => return lines.failed(subject, &error),
    };
    match compared {
        Err(error) => lines.failed(subject, &error),
        Ok(Compared::Reference) => lines.ok(subject, "this is the coordinator: its clock is the cluster's"),
        Ok(Compared::Nobody) if group.is_none() => {
            lines.ok(subject, "not compared: of several nodes without Citus, name one in [clock] on each");
        }
        Ok(Compared::Nobody) => lines.advice(
            subject,
            "Citus does not name the coordinator",
            "run citus_set_coordinator_host, or name the coordinator in [clock]: transactions of different nodes that have nothing in common are ordered by clocks",
        ),
        Ok(Compared::Ahead(ahead)) => {
            let found = format!(
                "{:+.1} ms from the coordinator's, give or take {:.1} ms",
                ahead.micros as f64 / 1e3,
                ahead.uncertain as f64 / 1e3
            );
            match ahead.micros.abs() > CLOCK_FINE_MICROS + ahead.uncertain {
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

enum Compared {
    /// This node is the one with which the others are compared.
    Reference,
    Nobody,
    Ahead(Ahead),
}

/// Compares the server's clock with the one that the configuration names, else with the coordinator's: what the
/// agent does all the time.
async fn against(own: &ConnectionOptions, named: Option<ConnectionOptions>) -> Result<Compared, Error> {
    let other = match named {
        Some(options) => options,
        None => match topology::coordinator(own).await? {
            Seat::Here => return Ok(Compared::Reference),
            Seat::Unknown => return Ok(Compared::Nobody),
            Seat::At { host, port, database } => own.toward(&host, port, &database)?,
        },
    };
    let there = ServerClock::connect(&other, None).await?.read(SAMPLES).await?;
    let here = ServerClock::connect(own, None).await?.read(SAMPLES).await?;
    Ok(Compared::Ahead(here.ahead_of(&there)))
}

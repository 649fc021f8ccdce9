//! `pitrus check`: can this node be protected? Each line says ok, or what to do.
//!
//! configuration → server → its data directory → clocks → zones and key. Nothing is changed, but for
//! a probe object that each zone is asked to keep for a moment.

mod archiving;
mod host;
mod line;
mod server;
mod vault;

use std::process::ExitCode;

use super::args::Shown;
use super::failure::{Failure, exit};
use super::out;
use crate::config::Settings;
use crate::config::settings::{Method, Postgres};
use crate::node::{Error, NodeFacts, Replication, Session};
use line::{Lines, Verdict};

/// Checks, prints, and returns the exit code that the worst line deserves.
pub(super) async fn run(settings: &Settings, shown: &Shown) -> Result<ExitCode, Failure> {
    let (node, postgres) = settings.own_node()?;
    let mut lines = Lines::default();
    let about = format!("{}: node {node} of cluster {}", settings.path.display(), settings.cluster);
    lines.ok("configuration", about);
    match check_server(&mut lines, postgres, settings.archive.method).await {
        Ok(Some((session, facts))) => {
            host::data_directory(&mut lines, &facts, &settings.cluster);
            let coordinator = settings.coordinator.as_ref();
            host::clocks(&mut lines, session.options(), coordinator, facts.group).await;
        }
        Ok(None) => {}
        Err(error) => lines.failed("server", &error),
    }
    vault::check(&mut lines, settings).await;
    out::text(&lines.text(shown.output))?;
    Ok(match lines.worst() {
        Verdict::Ok | Verdict::Advice => ExitCode::SUCCESS,
        Verdict::NotOk => ExitCode::from(exit::OPERATOR),
        Verdict::Unreachable => ExitCode::from(exit::TRANSIENT),
    })
}

/// Checks what can be asked over SQL. `None`: a version of which nothing more can be said, or a role
/// that may not see enough.
async fn check_server(
    lines: &mut Lines,
    postgres: &Postgres,
    method: Method,
) -> Result<Option<(Session, NodeFacts)>, Error> {
    let options = match postgres.server.options() {
        Ok(options) => options,
        Err(error) => {
            lines.failed("password", &error);
            return Ok(None);
        }
    };
    let session = Session::connect(&options, None).await?;
    let asked = |error| session.failed("read the server's state", error);
    let version = server::version(session.client()).await.map_err(asked)?;
    let Some(version) = server::judge_version(lines, version) else { return Ok(None) };
    let mut state = server::read(session.client(), version, &postgres.slot).await.map_err(asked)?;
    if !state.may_read_settings {
        server::judge(lines, &state, &postgres.slot);
        return Ok(None);
    }
    let facts = session.facts().await?;
    if !facts.citus_databases.is_empty() {
        state.citus = state.citus.or(Some(true));
    }
    server::judge(lines, &state, &postgres.slot);
    archiving::check(lines, &session, method, &postgres.slot).await?;
    citus(lines, &facts);
    if state.may_replicate {
        match replication(&options).await {
            Ok(()) => lines.ok("replication connection", "accepted"),
            Err(error) => lines.failed("replication connection", &error),
        }
    }
    Ok(Some((session, facts)))
}

fn citus(lines: &mut Lines, facts: &NodeFacts) {
    match facts.group {
        Some(group) => {
            lines.ok("Citus", format!("group {group}, in {}", facts.citus_databases.join(", ")));
        }
        None => lines.ok("Citus", "no database has its catalogue: this node is protected as a single server"),
    }
}

async fn replication(options: &crate::node::ConnectionOptions) -> Result<(), Error> {
    let mut connection = Replication::connect(options).await?;
    connection.identify_system().await?;
    connection.close().await
}

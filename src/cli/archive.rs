//! `pitrus archive-push` and `pitrus archive-get`: what a server's `archive_command` and `restore_command` run.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use super::args::{ArchiveGet, ArchivePush};
use super::failure::Failure;
use super::open::Place;
use crate::archive;
use crate::config::Settings;
use crate::config::settings::Method;
use crate::vault::Access;

/// No such file: recovery has come to the end of the archive.
const ABSENT: u8 = 1;
/// The server takes an exit code above 125 for a fault that ends recovery (PostgreSQL `RestoreArchivedFile`);
/// with any other it would take our fault for the end of the archive, and promote.
const BROKEN: u8 = 255;

/// Waits until a quorum of zones holds the file.
pub(super) fn push(settings: &Settings, args: &ArchivePush) -> Result<(), Failure> {
    if settings.archive.method != Method::Push {
        return Err(Failure::operator(
            format!(
                "{}: archive.method is \"stream\": the agent has the WAL from its slot",
                settings.path.display()
            ),
            "set archive.method = \"push\" and restart the agent, or take archive-push out of archive_command",
        ));
    }
    Ok(archive::ask(&settings.state_dir, &args.path, Duration::from_secs(args.timeout))?)
}

/// Puts a file of this node's WAL where the server wants it.
pub(super) async fn get(config: &Path, args: &ArchiveGet) -> Result<ExitCode, Failure> {
    let got = async {
        let settings = Settings::load(config)?;
        let node = settings.node.as_ref().ok_or_else(|| {
            Failure::operator(
                format!("{}: no `node` is named", config.display()),
                "write which node's WAL is wanted: node = \"...\"",
            )
        })?;
        let vault = Place::of(&settings)?.vault(Access::Read).await?;
        Ok::<_, Failure>(archive::get(&vault, node, &args.file, &args.target).await?)
    };
    Ok(match got.await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(ABSENT),
        Err(failure) => {
            failure.report();
            ExitCode::from(BROKEN)
        }
    })
}

//! `pitrus agent`: runs until SIGTERM or SIGINT; a second one ends it at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::failure::{Failure, exit};
use crate::agent;
use crate::config::Settings;

pub(super) async fn run(settings: Settings) -> Result<(), Failure> {
    let unheard = |error| Failure::bug("signals cannot be heard", error);
    let mut terminate = signal(SignalKind::terminate()).map_err(unheard)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unheard)?;
    let shutdown = CancellationToken::new();
    let asked = shutdown.clone();
    tokio::spawn(async move {
        for second in [false, true] {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            if second {
                tracing::warn!("asked to stop again: ending at once");
                std::process::exit(i32::from(exit::FAILED));
            }
            tracing::info!("asked to stop");
            asked.cancel();
        }
    });
    Ok(agent::run(settings, shutdown).await?)
}

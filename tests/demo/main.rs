//! The demonstration: a sharded cluster is backed up, loaded, destroyed, and restored whole to a moment
//! in the middle of the load, from the zones that are left. `scripts/demo` builds and runs it.

#[path = "../world/mod.rs"]
mod world;

mod story;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use world::Kind;

/// Backs up, destroys and restores a throwaway cluster, and proves that it is whole.
#[derive(Debug, Parser)]
struct Args {
    /// Leave all files in place
    #[arg(long)]
    keep: bool,
    /// Three plain servers even where Citus is installed
    #[arg(long)]
    plain: bool,
    /// Seconds of load before the moment to restore to
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// The pitrus program to show [default: the one built beside this]
    #[arg(long)]
    pitrus: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    let result = tokio::select! {
        result = tell(&args) => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted; everything it started was stopped and removed")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nthe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn tell(args: &Args) -> anyhow::Result<()> {
    world::bin_dir().map_err(anyhow::Error::msg)?;
    let pitrus = match &args.pitrus {
        Some(path) => path.clone(),
        None => std::env::current_exe()?.with_file_name("../pitrus"),
    };
    let kind = if args.plain { Kind::Plain } else { Kind::here() };
    story::tell(&story::Plot { kind, pitrus, seconds: args.seconds, keep: args.keep }).await
}

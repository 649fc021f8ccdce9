//! The command line: arguments in, one job run, its result printed, an exit code out.
//!
//! Results go to standard output, logs and failures to standard error. Each command is one file;
//! [`args`] says what may be typed, [`failure`] how a failure is shown and which exit code it has.

mod agent;
mod archive;
mod args;
mod check;
mod cut;
mod failure;
mod info;
mod init;
mod jobs;
mod key;
mod open;
mod out;
mod progress;
mod restore;
mod run;
mod wal;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;
use tracing_subscriber::EnvFilter;

use args::{Args, Command};
use failure::Failure;

use crate::config::Settings;

/// Parses the arguments, runs the command and returns the exit code.
pub fn main() -> ExitCode {
    if let Some(code) = restore::delivered(std::env::args_os()) {
        return code;
    }
    let args = Args::parse();
    log_to_stderr(&args);
    // The server waits for this one, file by file: nothing is set up that it does not need.
    if let Command::ArchivePush(push) = &args.command {
        let pushed = Settings::load(&args.config).map_err(Failure::from);
        return match pushed.and_then(|settings| archive::push(&settings, push)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.report(),
        };
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::bug("the runtime cannot be started", error).report(),
    };
    let result = runtime.block_on(run::run(args));
    // Whatever still runs in the background was promised to nobody.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(failure) => failure.report(),
    }
}

fn log_to_stderr(args: &Args) {
    let usual = match args.verbose {
        0 => "warn,pitrus=info",
        1 => "info,pitrus=debug",
        _ => "debug,pitrus=trace",
    };
    let filter = EnvFilter::try_from_env("PITRUS_LOG").unwrap_or_else(|_| EnvFilter::new(usual));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}

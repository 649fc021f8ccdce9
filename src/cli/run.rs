//! From a parsed command to the job that does it.

use std::process::ExitCode;

use super::args::{Args, Command, Key};
use super::failure::Failure;
use super::key;

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    match args.command {
        Command::Key(Key::Generate { file }) => key::generate(file.as_deref())?,
        _ => {
            crate::config::Settings::load(&args.config)?;
            return Err(Failure::operator("this command is not part of this build", "use a newer pitrus"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

//! From a parsed command to the job that does it.

use std::process::ExitCode;

use super::args::{Args, Command, Key, Restore};
use super::failure::Failure;
use super::{check, init, key};
use crate::config::Settings;
use crate::restore;

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let settings = || Settings::load(&args.config);
    match &args.command {
        Command::Init(init) => init::run(init, &args.config).await?,
        Command::Key(Key::Generate { file }) => key::generate(file.as_deref())?,
        Command::Check(shown) => return check::run(&settings()?, shown).await,
        Command::Restore(Restore::WalFromSpool { spool, file, target }) => {
            return Ok(ExitCode::from(restore::deliver(spool, file, target)));
        }
        _ => {
            settings()?;
            return Err(Failure::operator("this command is not part of this build", "use a newer pitrus"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

//! From a parsed command to the job that does it.

use std::process::ExitCode;

use super::args::{Args, Command, Key, Restore, Wal};
use super::failure::Failure;
use super::{agent, archive, check, cut, info, init, jobs, key, restore, wal};
use crate::config::Settings;

pub(super) async fn run(args: Args) -> Result<ExitCode, Failure> {
    let config = args.config.as_path();
    let settings = || Settings::load(config);
    match &args.command {
        Command::Init(args) => init::run(args, config).await?,
        Command::Agent => agent::run(settings()?).await?,
        Command::ArchivePush(args) => archive::push(&settings()?, args)?,
        Command::ArchiveGet(args) => return archive::get(config, args).await,
        Command::Check(shown) => return check::run(&settings()?, shown).await,
        Command::Backup(args) => return jobs::backup(&settings()?, args).await,
        Command::Expire(args) => jobs::expire(&settings()?, args).await?,
        Command::Info(args) => info::run(args, config).await?,
        Command::Restore(Restore::Plan(args)) => restore::plan(args, config).await?,
        Command::Restore(Restore::Run(args)) => restore::run(args, config).await?,
        Command::Cut(args) => cut::run(args).await?,
        Command::Wal(Wal::Show(args)) => wal::show(args)?,
        Command::Repair(args) => return jobs::repair(args, config).await,
        Command::Key(Key::Generate { file }) => key::generate(file.as_deref())?,
    }
    Ok(ExitCode::SUCCESS)
}

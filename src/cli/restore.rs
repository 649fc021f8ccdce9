//! `pitrus restore`: plans, and carries a plan out.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use super::args::{Branches, Clocks, Into, Output, RestorePlan, RestoreRun, Target};
use super::failure::Failure;
use super::open::Place;
use super::out;
use super::progress;
use crate::ids::ClusterName;
use crate::restore::plan::{self, Follow, PlanOptions, Request};
use crate::restore::{self, RestoreOptions, Targets};
use crate::vault::Access;

/// Has a segment laid before a recovering server, if that is what we are called for (its restore_command):
/// `pitrus restore wal-from-spool SPOOL FILE`. Recovery waits for it, so nothing else is set up.
pub(super) fn delivered(args: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let args: Vec<OsString> = args.skip(1).collect();
    match args.as_slice() {
        [restore, what, spool, file] if restore == "restore" && what == restore::WAL_FROM_SPOOL => {
            let code = restore::deliver(Path::new(spool), file.to_str()?);
            Some(ExitCode::from(code))
        }
        _ => None,
    }
}

/// Prints a plan; writes nothing.
pub(super) async fn plan(args: &RestorePlan, config: &Path) -> Result<(), Failure> {
    let place = Place::find(&args.vault, config)?;
    let new_name = match &args.new_name {
        Some(name) => name.clone(),
        None => usual_name(&place.cluster),
    };
    let vault = place.vault(Access::Read).await?;
    let follow = follow(&args.branches)?;
    let options = options(request(&args.target)?, follow, new_name, &args.clocks, args.explain);
    let plan = plan::find(&vault, &options).await?;
    restore::check(targets(&args.place).as_ref(), &plan, args.place.delta)?;
    match args.shown.output {
        Output::Text => out::text(&plan).map(drop),
        Output::Json => out::json(&plan),
    }
}

/// Carries a restore out, or goes on with one that has not ended.
pub(super) async fn run(args: &RestoreRun, config: &Path) -> Result<(), Failure> {
    let place = Place::find(&args.vault, config)?;
    let targets = targets(&args.place)
        .ok_or_else(|| Failure::operator("no target is named", "add --into DIR or --targets FILE"))?;
    let (request, follow) = (request(&args.target)?, follow(&args.branches)?);
    let vault = place.vault(Access::Read).await?;
    let plan = match restore::unfinished(&targets, &place.cluster, &args.new_name, &request, &follow)? {
        Some(plan) => {
            println!("going on with the restore planned at {}\n", plan.made_at);
            plan
        }
        None => {
            let options = options(request, follow, args.new_name.clone(), &args.clocks, false);
            plan::find(&vault, &options).await?
        }
    };
    println!("{plan}");
    let program = std::env::current_exe()
        .map_err(|e| Failure::bug("the path of this program is not known: it is the restore_command", e))?;
    let options = RestoreOptions {
        targets,
        bin_dir: args.bin_dir.clone(),
        os_user: args.os_user.clone(),
        program,
        start: args.start,
        delta: args.place.delta,
    };
    let (progress, bars) = progress::restore();
    let report = tokio::select! {
        report = restore::run(&options, vault, plan, progress) => report.map_err(Failure::from),
        () = interrupted() => Err(Failure::operator(
            "interrupted; the servers that it had started are told to stop",
            "run the same restore again: it goes on from where it was",
        )),
    };
    // A terminal that is gone is no reason to fail.
    let _ = bars.clear();
    println!("{}", report?.text());
    Ok(())
}

fn targets(place: &Into) -> Option<Targets> {
    let folder = place.into.clone().map(Targets::Into);
    folder.or_else(|| place.targets.clone().map(Targets::File))
}

/// Returns when somebody asks us to end.
async fn interrupted() {
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

fn options(
    request: Request,
    follow: Follow,
    new_name: ClusterName,
    clocks: &Clocks,
    explain: bool,
) -> PlanOptions {
    PlanOptions {
        request,
        follow,
        new_name,
        clocks: clocks.clocks.iter().cloned().collect(),
        pretended: clocks.pretended.iter().cloned().collect(),
        explain,
    }
}

fn follow(branches: &Branches) -> Result<Follow, Failure> {
    branches.follow().map_err(|what| Failure::operator(what, "a node follows one timeline"))
}

fn request(target: &Target) -> Result<Request, Failure> {
    match target.aim.request() {
        Some(request) => Ok(request),
        None if target.earliest => Ok(Request::Earliest),
        None => Err(Failure::operator(
            "no moment is named",
            "add --time, --latest, --earliest or --restore-point",
        )),
    }
}

/// The new cluster's name in a plan that does not say one.
fn usual_name(cluster: &ClusterName) -> ClusterName {
    let long = format!("{cluster}-restored");
    long.parse().unwrap_or_else(|_| "restored".parse().expect("a good name"))
}

//! What may be typed.

use std::path::PathBuf;

use clap::{ArgAction, Args as Group, Parser, Subcommand, ValueEnum};

use crate::cut::Request;
use crate::ids::{ClusterName, GroupId, NodeName};
use crate::lsn::Lsn;
use crate::moment::Moment;
use crate::restore::plan::Follow;
use crate::timeline::TimelineId;

const EXIT_CODES: &str = "Exit codes:
  0  done
  1  failed by a fault of pitrus itself
  2  something must be changed first: arguments, configuration, privileges
  3  zones or servers did not answer; the same command may work later
  4  stored data is damaged
  5  the moment asked for is outside what can be restored";

/// Restores a sharded Citus/PostgreSQL cluster to any moment, whole.
#[derive(Debug, Parser)]
#[command(name = "pitrus", version, after_help = EXIT_CODES, max_term_width = 100)]
pub(super) struct Args {
    /// The configuration file
    #[arg(long, global = true, env = "PITRUS_CONFIG", default_value = "/etc/pitrus/pitrus.toml")]
    pub(super) config: PathBuf,
    /// Log more (twice: everything); PITRUS_LOG filters as RUST_LOG does
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(super) verbose: u8,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write a configuration for a server that can be reached
    Init(Init),
    /// Archive this node's WAL and take its base backups, until told to stop
    Agent,
    /// Take a base backup of this node now; its agent must be running
    Backup(Backup),
    /// Tell whether this node can be protected, and what to do where not
    Check(Shown),
    /// Tell the server that a file of its WAL is archived: its archive_command, as `pitrus archive-push %p`
    ArchivePush(ArchivePush),
    /// Give a server a file of WAL: its restore_command, as `pitrus archive-get %f %p`
    ArchiveGet(ArchiveGet),
    /// Show nodes, backups, the restorable window, gaps and zones
    Info(Info),
    /// Plan a restore of the whole cluster, or run it
    #[command(subcommand)]
    Restore(Restore),
    /// Find the consistent cut in plain directories of WAL, for restores with any other tool
    Cut(Cut),
    /// Look into files of WAL
    #[command(subcommand)]
    Wal(Wal),
    /// Copy to every zone what the others hold
    Repair(Repair),
    /// Delete what retention no longer keeps
    Expire(Expire),
    /// Make keys
    #[command(subcommand)]
    Key(Key),
}

#[derive(Debug, Group)]
pub(super) struct Init {
    /// How to reach the server, as libpq writes it, without a password
    #[arg(long)]
    pub(super) conninfo: String,
    /// Name of the cluster
    #[arg(long)]
    pub(super) cluster: ClusterName,
    /// Name of this node [default: coordinator, worker-<group>, or the host's name]
    #[arg(long)]
    pub(super) node: Option<NodeName>,
    /// A zone: NAME=URL, or URL; give it three times. Folders are made
    #[arg(long = "zone", required = true)]
    pub(super) zones: Vec<String>,
    /// File of the master key
    #[arg(long, default_value = "/etc/pitrus/key")]
    pub(super) key_file: PathBuf,
    /// Make the master key if its file does not exist; all nodes of the cluster need the same key
    #[arg(long)]
    pub(super) generate_key: bool,
    /// Folder for the agent's state
    #[arg(long, default_value = "/var/lib/pitrus")]
    pub(super) state_dir: PathBuf,
    /// File with the password
    #[arg(long)]
    pub(super) password_file: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub(super) struct Backup {
    /// zstd level, 1 to 19 [default: from the configuration]
    #[arg(long, value_parser = clap::value_parser!(i32).range(1..=19))]
    pub(super) level: Option<i32>,
    /// Read everything, whatever older backups hold
    #[arg(long, conflicts_with = "paranoid")]
    pub(super) full: bool,
    /// Compare everything with what older backups hold, and tell what changed without a word in the WAL
    #[arg(long)]
    pub(super) paranoid: bool,
}

#[derive(Debug, Group)]
pub(super) struct ArchivePush {
    /// The file, as the server's %p names it
    pub(super) path: PathBuf,
    /// How many seconds to wait until a quorum of zones holds it
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(super) timeout: u64,
}

#[derive(Debug, Group)]
pub(super) struct ArchiveGet {
    /// The name of the file, as the server's %f
    pub(super) file: String,
    /// Where to put it, as the server's %p
    pub(super) target: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    Text,
    Json,
}

#[derive(Debug, Group)]
pub(super) struct Shown {
    /// For people or for programs
    #[arg(long, value_enum, default_value_t = Output::Text)]
    pub(super) output: Output,
}

/// Where the vault is: from the configuration, or from these where there is none.
#[derive(Debug, Group)]
pub(super) struct Where {
    /// Without a configuration: a zone, as a path or URL; may be given more than once
    #[arg(long = "zone", value_name = "URL", requires = "cluster")]
    pub(super) zones: Vec<String>,
    /// Without a configuration: the name of the cluster
    #[arg(long, requires = "zones")]
    pub(super) cluster: Option<ClusterName>,
    /// Without a configuration: the file of the master key
    #[arg(long, requires = "zones")]
    pub(super) key_file: Option<PathBuf>,
}

#[derive(Debug, Group)]
pub(super) struct Info {
    #[command(flatten)]
    pub(super) vault: Where,
    #[command(flatten)]
    pub(super) shown: Shown,
}

#[derive(Debug, Group)]
pub(super) struct Repair {
    #[command(flatten)]
    pub(super) vault: Where,
    /// Also open every copy of every object, and replace what is damaged
    #[arg(long)]
    pub(super) deep: bool,
}

#[derive(Debug, Group)]
pub(super) struct Expire {
    /// Only print what would be deleted
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, Subcommand)]
pub(super) enum Key {
    /// Print a new master key, or write it to a new file
    Generate {
        /// A file that does not exist yet; it will be readable by you alone
        #[arg(long)]
        file: Option<PathBuf>,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum Restore {
    /// Show what a restore would do; writes nothing
    Plan(RestorePlan),
    /// Restore all nodes into new directories
    Run(RestoreRun),
}

/// A moment that a log names.
#[derive(Debug, Group)]
pub(super) struct Aim {
    /// A moment with its zone, such as 2026-11-21T08:30:00Z or '2026-11-21 09:30:00.25+01'
    #[arg(long, group = "moment", conflicts_with_all = ["latest", "restore_point", "stop"])]
    pub(super) time: Option<Moment>,
    /// With --time: the first consistent moment at or after it, not the last at or before it
    #[arg(long, requires = "time", conflicts_with_all = ["latest", "restore_point", "before_transaction", "stop"])]
    pub(super) at_or_after: bool,
    /// The latest moment there is
    #[arg(long, group = "moment", conflicts_with_all = ["restore_point", "before_transaction", "stop"])]
    pub(super) latest: bool,
    /// A restore point made by citus_create_restore_point or pg_create_restore_point
    #[arg(long, value_name = "NAME", group = "moment", conflicts_with_all = ["before_transaction", "stop"])]
    pub(super) restore_point: Option<String>,
    /// Before a distributed transaction, by its gid, or by what Citus's have in common: citus_0_4711_29;
    /// with --time the one of that name nearest to it
    #[arg(long, value_name = "GID", group = "moment", conflicts_with = "stop")]
    pub(super) before_transaction: Option<String>,
    /// At or before a position of one node, such as 1=0/3000148
    #[arg(long, value_name = "NODE=LSN", group = "moment", value_parser = node_position)]
    pub(super) stop: Option<(NodeName, Lsn)>,
}

impl Aim {
    /// Returns what is asked for; `None` where nothing is.
    pub(super) fn request(&self) -> Option<Request> {
        if let Some(gid) = &self.before_transaction {
            return Some(Request::BeforeTransaction { gid: gid.clone(), near: self.time });
        }
        if let Some(time) = self.time {
            return Some(if self.at_or_after { Request::AtOrAfter(time) } else { Request::Time(time) });
        }
        if let Some((node, lsn)) = &self.stop {
            return Some(Request::Stop { node: node.clone(), lsn: *lsn });
        }
        let named = self.restore_point.clone().map(Request::RestorePoint);
        named.or(self.latest.then_some(Request::Latest))
    }
}

/// The moment to restore to.
#[derive(Debug, Group)]
#[command(group(clap::ArgGroup::new("moment").required(true).multiple(true)))]
pub(super) struct Target {
    #[command(flatten)]
    pub(super) aim: Aim,
    /// The earliest moment that can be restored
    #[arg(long, group = "moment", conflicts_with_all = ["time", "latest", "restore_point", "before_transaction", "stop"])]
    pub(super) earliest: bool,
}

#[derive(Debug, Group)]
pub(super) struct Clocks {
    /// How far a node's clock was ahead (+) or behind (-), such as worker-1=+50ms; may be given more than once
    #[arg(long = "clock", value_name = "NODE=OFFSET", value_parser = clock_offset)]
    pub(super) clocks: Vec<(NodeName, i64)>,
    /// Read a node's time stamps as if its clock had been wrong by so much: to see what that would have done
    #[arg(long = "pretend-clock", value_name = "NODE=OFFSET", value_parser = clock_offset, hide = true)]
    pub(super) pretended: Vec<(NodeName, i64)>,
}

#[derive(Debug, Group)]
pub(super) struct Branches {
    /// The timeline to follow, as recovery_target_timeline, for one node (worker-1=2) or all [default: the newest];
    /// may be given more than once
    #[arg(long = "timeline", value_name = "[NODE=]N", value_parser = node_timeline)]
    pub(super) timelines: Vec<(Option<NodeName>, TimelineId)>,
}

impl Branches {
    /// Returns what to follow; the text says what is said twice.
    pub(super) fn follow(&self) -> Result<Follow, String> {
        let mut follow = Follow::default();
        for (node, timeline) in &self.timelines {
            let before = match node {
                Some(node) => follow.of.insert(node.clone(), *timeline),
                None => follow.all.replace(*timeline),
            };
            if before.is_some() {
                let whose = node.as_ref().map_or("all nodes".to_owned(), ToString::to_string);
                return Err(format!("--timeline is given twice for {whose}"));
            }
        }
        Ok(follow)
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Wal {
    /// Show segments by distributed transaction: prepares, decisions, commits; and restore points, checkpoints
    Show(WalShow),
}

#[derive(Debug, Group)]
pub(super) struct WalShow {
    /// Plain segments, of one or several nodes
    #[arg(required = true)]
    pub(super) files: Vec<PathBuf>,
    /// A line for each event, as it lies in the WAL; with --output json one document a line
    #[arg(long)]
    pub(super) records: bool,
    #[command(flatten)]
    pub(super) shown: Shown,
}

/// Plain directories of WAL, and the moment to cut them at.
#[derive(Debug, Group)]
#[command(group(clap::ArgGroup::new("moment").required(true).multiple(true)))]
pub(super) struct Cut {
    /// A node by its Citus group (0 is the coordinator; any number where there is no Citus) and the directory of
    /// its WAL; give it for every node
    #[arg(long = "node", value_name = "GROUP=DIR", required = true, value_parser = node_directory)]
    pub(super) nodes: Vec<(GroupId, PathBuf)>,
    #[command(flatten)]
    pub(super) aim: Aim,
    #[command(flatten)]
    pub(super) clocks: Clocks,
    #[command(flatten)]
    pub(super) branches: Branches,
    /// Tell which transactions were under way, what of them stands where, and why the cut moved
    #[arg(long)]
    pub(super) explain: bool,
    #[command(flatten)]
    pub(super) shown: Shown,
}

/// Where the new cluster goes; a plan looks whether it can.
#[derive(Debug, Group)]
pub(super) struct Into {
    /// Folder for one data directory a node, on this machine
    #[arg(long, conflicts_with = "targets")]
    pub(super) into: Option<PathBuf>,
    /// File naming host, port and data directory for each node
    #[arg(long)]
    pub(super) targets: Option<PathBuf>,
    /// Go into stopped copies of the nodes: fetch what differs, remove what does not belong. What is in these
    /// directories is lost
    #[arg(long)]
    pub(super) delta: bool,
}

#[derive(Debug, Group)]
pub(super) struct RestorePlan {
    #[command(flatten)]
    pub(super) vault: Where,
    #[command(flatten)]
    pub(super) target: Target,
    #[command(flatten)]
    pub(super) clocks: Clocks,
    #[command(flatten)]
    pub(super) branches: Branches,
    /// Name of the new cluster, unlike the old one's
    #[arg(long = "as", value_name = "NEW_NAME")]
    pub(super) new_name: Option<ClusterName>,
    #[command(flatten)]
    pub(super) place: Into,
    /// Tell which transactions were under way, what of them stands where, and why the cut moved
    #[arg(long)]
    pub(super) explain: bool,
    #[command(flatten)]
    pub(super) shown: Shown,
}

#[derive(Debug, Group)]
pub(super) struct RestoreRun {
    #[command(flatten)]
    pub(super) vault: Where,
    #[command(flatten)]
    pub(super) target: Target,
    #[command(flatten)]
    pub(super) clocks: Clocks,
    #[command(flatten)]
    pub(super) branches: Branches,
    /// Name of the new cluster, unlike the old one's
    #[arg(long = "as", value_name = "NEW_NAME")]
    pub(super) new_name: ClusterName,
    #[command(flatten)]
    pub(super) place: Into,
    /// Folder of the PostgreSQL programs [default: found by version]
    #[arg(long, env = "PITRUS_PG_BIN")]
    pub(super) bin_dir: Option<PathBuf>,
    /// Operating system user of the servers
    #[arg(long, default_value = "postgres")]
    pub(super) os_user: String,
    /// Leave the new cluster running
    #[arg(long)]
    pub(super) start: bool,
}

/// Reads `1=/srv/wal`.
fn node_directory(text: &str) -> Result<(GroupId, PathBuf), String> {
    let shape = || format!("{text:?} is not GROUP=DIR, such as 0=/srv/wal/coordinator");
    let (group, folder) = text.split_once('=').ok_or_else(shape)?;
    let plain = !group.is_empty() && !folder.is_empty() && group.bytes().all(|b| b.is_ascii_digit());
    let group = plain.then(|| group.parse().ok()).flatten().ok_or_else(shape)?;
    Ok((GroupId(group), PathBuf::from(folder)))
}

/// Reads `worker-1=2`, or `2` for every node.
fn node_timeline(text: &str) -> Result<(Option<NodeName>, TimelineId), String> {
    let (node, number) = text.split_once('=').map_or((None, text), |(node, number)| (Some(node), number));
    let node = node.map(str::parse).transpose().map_err(|error: crate::ids::BadName| error.to_string())?;
    match number.parse() {
        Ok(number @ 1..) => Ok((node, TimelineId(number))),
        _ => Err(format!("{text:?} is not NODE=N or N, such as worker-1=2, with the number of a timeline")),
    }
}

/// Reads `worker-1=0/3000148`.
fn node_position(text: &str) -> Result<(NodeName, Lsn), String> {
    let (node, lsn) = text
        .split_once('=')
        .ok_or_else(|| format!("{text:?} is not NODE=LSN, such as worker-1=0/3000148"))?;
    let node = node.parse().map_err(|error: crate::ids::BadName| error.to_string())?;
    Ok((node, lsn.parse().map_err(|error: crate::lsn::BadLsn| error.to_string())?))
}

/// Reads `NODE=+50ms`; the offset is in microseconds.
fn clock_offset(text: &str) -> Result<(NodeName, i64), String> {
    let shape = || format!("{text:?} is not NODE=OFFSET, such as worker-1=+50ms");
    let (node, offset) = text.split_once('=').ok_or_else(shape)?;
    let node = node.parse().map_err(|error: crate::ids::BadName| error.to_string())?;
    let unit = offset.trim_start_matches(|c: char| c.is_ascii_digit() || "+-.".contains(c));
    let number = offset.strip_suffix(unit).unwrap_or(offset);
    let micros = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        _ => return Err(format!("{text:?}: write the offset in us, ms or s")),
    };
    let number: f64 = number.parse().map_err(|_| shape())?;
    let whole = (number * micros).round();
    if whole.abs() > 86_400e6 {
        return Err(format!("{text:?}: no clock is off by more than a day"));
    }
    Ok((node, whole as i64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_arguments_are_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn offsets_have_a_sign_and_a_unit() {
        let read = |text| clock_offset(text).map(|(_, micros)| micros);
        assert_eq!(read("w=+50ms"), Ok(50_000));
        assert_eq!(read("w=-1.5s"), Ok(-1_500_000));
        assert_eq!(read("w=7us"), Ok(7));
        for bad in ["w", "w=", "w=5", "w=ms", "W=5ms", "w=1e9s", "w=99999s", "w=--5ms"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn exactly_one_target_is_asked_for() {
        let parse =
            |more: &[&str]| Args::try_parse_from([&["pitrus", "restore", "plan"], more].concat()).map(|_| ());
        assert!(parse(&["--latest"]).is_ok());
        assert!(parse(&[]).is_err());
        assert!(parse(&["--latest", "--earliest"]).is_err());
        assert!(parse(&["--time", "yesterday"]).is_err());
        assert!(parse(&["--time", "2026-11-21T08:30:00Z", "--at-or-after"]).is_ok());
        assert!(parse(&["--latest", "--at-or-after"]).is_err());
        assert!(parse(&["--at-or-after"]).is_err());
        assert!(parse(&["--stop", "w=0/1", "--latest"]).is_err());
        assert!(parse(&["--stop", "w"]).is_err());
        assert!(parse(&["--before-transaction", "g", "--time", "2026-11-21T08:30:00Z"]).is_ok());
        assert!(parse(&["--before-transaction", "g", "--earliest"]).is_err());
        assert!(parse(&["--latest", "--zone", "/a"]).is_err());
        assert!(parse(&["--latest", "--zone", "/a", "--cluster", "c", "--key-file", "/k"]).is_ok());
    }
}

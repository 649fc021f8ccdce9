//! `pitrus init`: asks the server what it is and writes a configuration for it. Whatever exists is
//! left as it is; the configuration itself is written last and must not exist.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::args::Init;
use super::failure::Failure;
use super::key;
use super::open::{absolute, zone};
use crate::config::Settings;
use crate::config::draft::Draft;
use crate::config::secret::Source;
use crate::ids::{GroupId, NodeName, ZoneName};
use crate::node::{ConnectionOptions, Secret, Session, facts, topology};
use crate::zones::create_folder;

pub(super) async fn run(args: &Init, config: &Path) -> Result<(), Failure> {
    if config.exists() {
        return Err(Failure::operator(
            format!("{}: exists", config.display()),
            "nothing is overwritten: name another file with --config, or move this one away",
        ));
    }
    let zones = args
        .zones
        .iter()
        .enumerate()
        .map(|(number, text)| zone(number, text))
        .collect::<Result<Vec<_>, _>>()?;
    let group = ask(args).await?;
    let node = args.node.clone().unwrap_or_else(|| name_of(group));
    let text = draft(args, &node, &zones)?.render();
    // What we write must be what we would accept.
    Settings::parse(config, &text)?;
    for folder in zones.iter().filter_map(|(_, url)| folder_of(url)) {
        make_folder(&folder)?;
    }
    if args.generate_key && !args.key_file.exists() {
        key::generate(Some(&args.key_file))?;
    }
    key::write_new(config, text.as_bytes())?;
    println!("wrote {}: node {node} of cluster {}", config.display(), args.cluster);
    if !args.key_file.exists() {
        println!("next: copy the cluster's master key to {}", args.key_file.display());
    }
    println!("next: pitrus check --config {}", config.display());
    Ok(())
}

/// Asks the server its version, which must be known, and its Citus group. Needs no privilege but to
/// connect: `pitrus check` prints the grants, and it needs the file that is being written.
async fn ask(args: &Init) -> Result<Option<GroupId>, Failure> {
    let password = match &args.password_file {
        None => None,
        Some(path) => {
            let text = Source::File(path.clone()).read()?;
            Some(Secret::new(text.as_str().to_owned()))
        }
    };
    let options = ConnectionOptions { conninfo: args.conninfo.clone(), password, tls_root_cert: None };
    let session = Session::connect(&options, None).await?;
    let row =
        session.row("read its version", "select current_setting('server_version_num')::int4", &[]).await?;
    let version: i32 = row.get(0);
    facts::supported(version.cast_unsigned())?;
    Ok(topology::local_groups(&options).await?.first().map(|(_, group)| *group))
}

fn draft(args: &Init, node: &NodeName, zones: &[(ZoneName, String)]) -> Result<Draft, Failure> {
    let mut draft = Draft::default();
    draft.text("cluster", args.cluster.as_str());
    draft.text("node", node.as_str());
    draft.text("state_dir", &absolute(&args.state_dir)?);
    draft.text("postgres.conninfo", &args.conninfo);
    if let Some(path) = &args.password_file {
        draft.text("postgres.password_file", &absolute(path)?);
    }
    draft.text("key.file", &absolute(&args.key_file)?);
    for (name, url) in zones {
        draft.text("zone.name", name.as_str());
        draft.text("zone.url", url);
    }
    Ok(draft)
}

/// Returns the folder of a zone that is one.
fn folder_of(url: &str) -> Option<PathBuf> {
    match url.strip_prefix("file://") {
        Some(path) => Some(PathBuf::from(path)),
        None if url.starts_with('/') => Some(PathBuf::from(url)),
        None => None,
    }
}

fn make_folder(path: &Path) -> Result<(), Failure> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.and_then(|()| create_folder(path)).map_err(|error| {
        Failure::file(
            format!("zone {}: cannot be made", path.display()),
            error,
            "check the permissions above it",
        )
    })
}

/// Returns the name that a node's role gives it, or the host's.
fn name_of(group: Option<GroupId>) -> NodeName {
    let named = match group {
        Some(group) if group.0 == 0 => Some("coordinator".to_owned()),
        Some(group) => Some(format!("worker-{group}")),
        None => std::fs::read_to_string("/proc/sys/kernel/hostname").ok(),
    };
    let fit = |name: String| {
        let short = name.trim().split('.').next().unwrap_or_default().to_ascii_lowercase();
        short.parse().ok()
    };
    named.and_then(fit).unwrap_or_else(|| "node".parse().expect("a good name"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_are_made() {
        assert_eq!(folder_of("file:///srv/a"), Some("/srv/a".into()));
        assert_eq!(folder_of("s3://a"), None);
    }
}

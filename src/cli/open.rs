//! Where the vault is: from the configuration, or from the command line on a machine that has none.

use std::path::{Path, PathBuf};

use super::args::Where;
use super::failure::Failure;
use crate::config::Settings;
use crate::config::secret::Source;
use crate::config::settings::master_key;
use crate::ids::{ClusterName, ZoneName};
use crate::vault::{Access, Vault};
use crate::zones::{ZoneOptions, ZoneSet};

/// A vault that can be opened.
pub(super) struct Place {
    pub(super) cluster: ClusterName,
    pub(super) zones: Vec<ZoneOptions>,
    write_quorum: usize,
    key: Option<Source>,
    /// The agent's folder on this machine, where there is a configuration.
    pub(super) state_dir: Option<PathBuf>,
}

impl Place {
    /// Uses the arguments if they name zones, and else the configuration.
    pub(super) fn find(named: &Where, config: &Path) -> Result<Place, Failure> {
        let Some(cluster) = &named.cluster else {
            return Place::of(&Settings::load(config)?);
        };
        let zones = named.zones.iter().enumerate().map(|(number, text)| {
            let (name, url) = zone(number, text)?;
            Ok(ZoneOptions { name, url, options: Vec::new() })
        });
        let zones = zones.collect::<Result<Vec<_>, Failure>>()?;
        Ok(Place {
            cluster: cluster.clone(),
            write_quorum: zones.len() / 2 + 1,
            zones,
            key: named.key_file.clone().map(Source::File),
            state_dir: None,
        })
    }

    pub(super) fn of(settings: &Settings) -> Result<Place, Failure> {
        Ok(Place {
            cluster: settings.cluster.clone(),
            zones: settings.zone_options()?,
            write_quorum: settings.write_quorum,
            key: Some(settings.key.clone()),
            state_dir: Some(settings.state_dir.clone()),
        })
    }

    pub(super) fn zones(&self) -> Result<ZoneSet, Failure> {
        Ok(ZoneSet::open(self.zones.clone(), self.write_quorum)?)
    }

    pub(super) async fn vault(&self, access: Access) -> Result<Vault, Failure> {
        let Some(key) = &self.key else {
            return Err(Failure::operator("no master key is named", "add --key-file FILE"));
        };
        let master = master_key(key)?;
        Ok(Vault::open(self.zones()?, master, self.cluster.clone(), access).await?)
    }
}

/// Reads `NAME=URL` or `URL`; zones without a name are called a, b, c.
pub(super) fn zone(number: usize, text: &str) -> Result<(ZoneName, String), Failure> {
    let (name, url) = match text.split_once('=') {
        Some((name, url)) if !name.contains(['/', ':']) => (name.to_owned(), url),
        _ => (char::from(b'a' + (number % 26) as u8).to_string(), text),
    };
    let name = name.parse().map_err(|error: crate::ids::BadName| {
        Failure::operator(error.to_string(), "write --zone NAME=URL, such as --zone a=/srv/pitrus")
    })?;
    if url.contains("://") {
        return Ok((name, url.to_owned()));
    }
    Ok((name, absolute(Path::new(url))?))
}

/// Returns a path from the root, as text.
pub(super) fn absolute(path: &Path) -> Result<String, Failure> {
    let path = std::path::absolute(path)
        .map_err(|e| Failure::file(format!("{}: no absolute path", path.display()), e, "begin it with /"))?;
    path.into_os_string()
        .into_string()
        .map_err(|path| Failure::operator(format!("{}: is not UTF-8", path.display()), "choose another path"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zones_may_be_named() {
        let read = |text| zone(1, text).map(|(name, url)| format!("{name} {url}"));
        assert_eq!(read("x=/srv/a=b").unwrap(), "x /srv/a=b");
        assert_eq!(read("/srv/a=b").unwrap(), "b /srv/a=b");
        assert_eq!(read("s3://bucket/p?x=y").unwrap(), "b s3://bucket/p?x=y");
        assert!(read("rel").unwrap().starts_with("b /"));
        assert!(read("A=/srv").is_err());
    }
}

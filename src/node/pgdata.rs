//! A server's data directory, seen from outside the server.

use std::io;
use std::path::Path;

use super::Error;
use crate::ids::ClusterName;
use crate::manifest;
use crate::manifest::clone_mark::{self, CloneMark};

/// Returns the mark of a restored server, where its data directory has one.
pub fn clone_mark(data_directory: &Path) -> Result<Option<CloneMark>, Error> {
    let path = data_directory.join(clone_mark::FILE);
    match std::fs::read(&path) {
        Ok(bytes) => manifest::from_bytes(&bytes).map(Some).map_err(|source| Error::Mark { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::File { path, source }),
    }
}

/// Refuses to protect a restored server under any cluster's name but the one it was restored as.
pub fn refuse_clone(data_directory: &Path, asked: &ClusterName) -> Result<(), Error> {
    match clone_mark(data_directory)? {
        Some(CloneMark { source_cluster, cluster, .. }) if cluster != *asked => {
            Err(Error::Clone { source_cluster, cluster, asked: asked.clone() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moment::Moment;

    #[test]
    fn a_clone_answers_only_to_its_new_name() {
        let folder = tempfile::tempdir().unwrap();
        let name = |text: &str| text.parse::<ClusterName>().unwrap();
        assert!(refuse_clone(folder.path(), &name("prod")).is_ok());
        let mark = CloneMark {
            version: 1,
            cluster: name("copy"),
            source_cluster: name("prod"),
            source_node: "coordinator".parse().unwrap(),
            restored_at: Moment(0),
        };
        std::fs::write(folder.path().join(clone_mark::FILE), manifest::to_bytes(&mark)).unwrap();
        assert!(refuse_clone(folder.path(), &name("copy")).is_ok());
        assert!(matches!(refuse_clone(folder.path(), &name("prod")), Err(Error::Clone { .. })));
        std::fs::write(folder.path().join(clone_mark::FILE), "{").unwrap();
        assert!(matches!(refuse_clone(folder.path(), &name("copy")), Err(Error::Mark { .. })));
    }
}

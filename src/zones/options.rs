//! Where a zone is, and how to reach it.

use std::fmt;

use crate::ids::ZoneName;

#[derive(Clone)]
pub struct ZoneOptions {
    pub name: ZoneName,
    /// An absolute path, or `file://`, `s3://bucket/prefix`, `az://container/prefix`, `gs://bucket/prefix`.
    pub url: String,
    /// Options of the store, such as `region`, `endpoint`, `access_key_id`; their values may be secret.
    pub options: Vec<(String, String)>,
}

impl fmt::Debug for ZoneOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&str> = self.options.iter().map(|(key, _)| key.as_str()).collect();
        f.debug_struct("ZoneOptions")
            .field("name", &self.name)
            .field("url", &self.url)
            .field("options", &keys)
            .finish()
    }
}

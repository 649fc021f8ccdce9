//! The extents of one file, read with each pack's name in memory once: a file of 1 GB may have 131,072 of them.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::{Deserializer, SeqAccess, Visitor};

use super::Extent;

/// Names that are compared with; extents of a file alternate between few packs.
const RECENT_MAX: usize = 16;

/// An [`Extent`] as it is written.
#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    p: Cow<'a, str>,
    c: u32,
    a: u64,
    s: u32,
    o: u32,
    n: u32,
    l: u32,
    x: u32,
}

pub(super) fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Extent>, D::Error> {
    deserializer.deserialize_seq(Extents)
}

struct Extents;

impl<'de> Visitor<'de> for Extents {
    type Value = Vec<Extent>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of extents")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<Extent>, A::Error> {
        let (mut extents, mut recent) = (Vec::new(), Vec::new());
        while let Some(written) = sequence.next_element()? {
            let Written { p, c: chunk, a: at, s: sealed, o: offset, n: len, l: plain, x: crc } = written;
            let pack = shared(&mut recent, p);
            extents.push(Extent { pack, chunk, at, sealed, offset, len, plain, crc });
        }
        Ok(extents)
    }
}

/// Returns the name, the same one where it was seen lately.
fn shared(recent: &mut Vec<Arc<str>>, name: Cow<'_, str>) -> Arc<str> {
    if let Some(found) = recent.iter().rev().find(|known| ***known == *name) {
        return Arc::clone(found);
    }
    if recent.len() == RECENT_MAX {
        recent.remove(0);
    }
    let name: Arc<str> = name.into();
    recent.push(Arc::clone(&name));
    name
}

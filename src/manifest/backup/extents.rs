//! The extents of one file as its line has them: short, since those of an incremental backup may be 131,072 for a file
//! of 1 GB, and the next backup and every restore wait for them.
//!
//! `{"chunks":[[pack,number,at,sealed,plain,crc],…],"cuts":[chunk,offset,len,…]}`: each chunk is described once, and a
//! cut names it by its place among them. In memory every extent has its chunk, and each pack's name is there once.

use std::borrow::Cow;
use std::sync::Arc;

use serde::de::{Deserializer, Error};
use serde::{Deserialize, Serialize, Serializer};

use super::{EXTENTS_MAX, Extent};

/// Names and chunks that are compared with; extents of a file alternate between few of either.
const RECENT_MAX: usize = 16;

#[derive(Serialize, Deserialize)]
struct Written<'a> {
    #[serde(borrow)]
    chunks: Vec<Chunk<'a>>,
    cuts: Vec<u32>,
}

/// Pack, number in it, at, sealed, plain, crc: as in [`Extent`].
#[derive(PartialEq, Serialize, Deserialize)]
struct Chunk<'a>(#[serde(borrow)] Cow<'a, str>, u32, u64, u32, u32, u32);

pub(super) fn write<S: Serializer>(extents: &[Extent], serializer: S) -> Result<S::Ok, S::Error> {
    let mut written = Written { chunks: Vec::new(), cuts: Vec::with_capacity(extents.len() * 3) };
    for Extent { pack, chunk, at, sealed, offset, len, plain, crc } in extents {
        let chunk = Chunk(Cow::Borrowed(pack), *chunk, *at, *sealed, *plain, *crc);
        let old = written.chunks.len().saturating_sub(RECENT_MAX);
        let recent = written.chunks.get(old..).unwrap_or_default();
        let place = recent.iter().rposition(|known| *known == chunk).map(|place| old + place);
        let place = place.unwrap_or_else(|| {
            written.chunks.push(chunk);
            written.chunks.len() - 1
        });
        written.cuts.extend([u32::try_from(place).unwrap_or(u32::MAX), *offset, *len]);
    }
    written.serialize(serializer)
}

pub(super) fn read<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Extent>, D::Error> {
    let Written { chunks, cuts } = Written::deserialize(deserializer)?;
    let (cuts, rest) = cuts.as_chunks::<3>();
    if !rest.is_empty() || cuts.len() > EXTENTS_MAX {
        return Err(D::Error::custom("its cuts are no extents, or too many"));
    }
    let mut names = Vec::new();
    let chunks: Vec<(Arc<str>, Chunk<'_>)> =
        chunks.into_iter().map(|chunk| (shared(&mut names, &chunk.0), chunk)).collect();
    let extent = |[place, offset, len]: &[u32; 3]| {
        let (pack, Chunk(_, chunk, at, sealed, plain, crc)) = chunks.get(*place as usize)?;
        let (chunk, at, sealed, plain, crc) = (*chunk, *at, *sealed, *plain, *crc);
        Some(Extent { pack: Arc::clone(pack), chunk, at, sealed, offset: *offset, len: *len, plain, crc })
    };
    let extents: Option<Vec<Extent>> = cuts.iter().map(extent).collect();
    extents.ok_or_else(|| D::Error::custom("a cut names no chunk of its file"))
}

/// Returns the name, the same one where it was seen lately.
fn shared(recent: &mut Vec<Arc<str>>, name: &str) -> Arc<str> {
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

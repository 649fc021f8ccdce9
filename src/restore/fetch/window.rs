//! What a manifest asks for, a bounded part of it at a time.
//!
//! files in the manifest's order -> a window of pieces -> sorted by where they lie in packs -> runs, each
//! brought by one request
//!
//! A backup that goes on from others has a file's bytes all over their packs: sorting brings them together
//! again, and a window bounds what is sorted, whatever the size of the backup. A chunk that two windows
//! want is brought twice. Runs come in the order of the files they begin in, so that a stretch of a file is
//! whole soon after its first page, whatever number of backups its pages are from.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::ids::BackupId;
use crate::manifest::backup::{Extent, Pack};
use crate::seal::ChunkPlace;

/// Pieces (of at most 1 MiB) and files that are sorted together: a few MiB of memory.
const PIECES_MAX: usize = 32 << 10;
const FILES_MAX: usize = 8 << 10;
/// A run's length, sealed and opened, and how many chunks: enough to hide the delay of a distant store,
/// little enough for memory and for all cores to have work.
const RUN_SEALED_MAX: u64 = 4 << 20;
const RUN_PLAIN_MAX: u64 = 8 << 20;
/// Unwanted bytes between two chunks that are still read with them, rather than by another request.
const GAP_BYTES: u64 = 256 << 10;

/// So many bytes of a file are sent to disk together.
pub(super) const FLUSH_BYTES: u64 = 8 << 20;

/// A file of the target.
#[derive(Debug)]
pub(super) struct File {
    /// Its number in this fetch.
    pub(super) number: u64,
    pub(super) path: PathBuf,
    /// It was made by this fetch: what was not written to it is zero.
    pub(super) is_new: bool,
    /// How many bytes each stretch of [`FLUSH_BYTES`] still lacks.
    lacking: Box<[AtomicU64]>,
}

impl File {
    pub(super) fn new(number: u64, path: PathBuf, size: u64, is_new: bool) -> Self {
        let stretch = |from: u64| AtomicU64::new(FLUSH_BYTES.min(size - from));
        let lacking = (0..size).step_by(FLUSH_BYTES as usize).map(stretch).collect();
        File { number, path, is_new, lacking }
    }

    /// Notes that so many bytes came to this place; returns where each stretch begins that is whole now.
    pub(super) fn came(&self, at: u64, bytes: u64) -> impl Iterator<Item = u64> {
        let end = at.saturating_add(bytes);
        let stretches = (at / FLUSH_BYTES * FLUSH_BYTES..end).step_by(FLUSH_BYTES as usize);
        stretches.filter(move |begin| {
            let within = end.min(begin.saturating_add(FLUSH_BYTES)) - at.max(*begin);
            let lacking = usize::try_from(begin / FLUSH_BYTES).ok().and_then(|n| self.lacking.get(n));
            within > 0
                && lacking.is_some_and(|lacking| lacking.fetch_sub(within, Ordering::Relaxed) == within)
        })
    }
}

/// Bytes of a chunk, and where in which file of the window they belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) file: u32,
    pub(super) file_at: u64,
    pub(super) offset: u32,
    pub(super) len: u32,
}

/// A chunk, and what of it is wanted.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) place: ChunkPlace,
    /// Length and CRC-32 of what it holds.
    pub(super) plain: u32,
    pub(super) crc: u32,
    pub(super) pieces: Vec<Piece>,
}

/// Neighbouring chunks of one pack, brought by one request.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) pack: Pack,
    pub(super) chunks: Vec<Chunk>,
    pub(super) files: Arc<Vec<File>>,
}

/// What is sorted: a piece and its chunk, the pack by its number in the window.
struct Wanted {
    pack: u32,
    place: ChunkPlace,
    plain: u32,
    crc: u32,
    piece: Piece,
}

/// Files and pieces that are gathered.
#[derive(Default)]
pub(super) struct Window {
    packs: Vec<Pack>,
    numbers: BTreeMap<String, u32>,
    files: Vec<File>,
    wanted: Vec<Wanted>,
}

impl Window {
    pub(super) fn is_full(&self) -> bool {
        self.wanted.len() >= PIECES_MAX || self.files.len() >= FILES_MAX
    }

    /// Adds a file whose bytes come from `extents`, which belong to the manifest of `own`.
    pub(super) fn add(&mut self, file: File, extents: &[Extent], own: &BackupId) -> Result<(), String> {
        let number = u32::try_from(self.files.len()).map_err(|_| "a window has too many files".to_owned())?;
        let mut file_at = 0;
        for extent in extents {
            let &Extent { chunk, at, sealed, offset, len, plain, crc, .. } = extent;
            let piece = Piece { file: number, file_at, offset, len };
            let place = ChunkPlace { at, sealed, index: chunk };
            let pack = self.pack(&extent.pack, own)?;
            self.wanted.push(Wanted { pack, place, plain, crc, piece });
            file_at += u64::from(len);
        }
        self.files.push(file);
        Ok(())
    }

    fn pack(&mut self, name: &str, own: &BackupId) -> Result<u32, String> {
        if let Some(number) = self.numbers.get(name) {
            return Ok(*number);
        }
        let number = u32::try_from(self.packs.len()).map_err(|_| "a window has too many packs".to_owned())?;
        self.packs.push(Pack::named(name, own).map_err(|error| error.to_string())?);
        self.numbers.insert(name.to_owned(), number);
        Ok(number)
    }

    /// Sorts what was gathered, and returns it by runs.
    pub(super) fn runs(self) -> Result<Vec<Run>, String> {
        let Window { packs, mut wanted, files, .. } = self;
        wanted
            .sort_unstable_by_key(|w| (w.pack, w.place.index, w.piece.offset, w.piece.file, w.piece.file_at));
        let files = Arc::new(files);
        let (mut runs, mut of) = (Vec::<Run>::new(), None);
        for Wanted { pack, place, plain, crc, piece } in wanted {
            let last = runs.last_mut().filter(|_| of == Some(pack));
            if let Some(chunk) = last.and_then(|run| run.chunks.last_mut())
                && chunk.place.index == place.index
            {
                if (chunk.place, chunk.plain, chunk.crc) != (place, plain, crc) {
                    let pack = packs.get(pack as usize).map(|p| format!("{}/{}", p.backup, p.number));
                    let pack = pack.unwrap_or_default();
                    return Err(format!("it names two places for chunk {} of pack {pack}", place.index));
                }
                chunk.pieces.push(piece);
                continue;
            }
            let chunk = Chunk { place, plain, crc, pieces: vec![piece] };
            match runs.last_mut().filter(|run| of == Some(pack) && run.takes(&chunk)) {
                Some(run) => run.chunks.push(chunk),
                None => {
                    let Some(its) = packs.get(pack as usize).cloned() else { continue };
                    runs.push(Run { pack: its, chunks: vec![chunk], files: Arc::clone(&files) });
                }
            }
            of = Some(pack);
        }
        runs.sort_by_key(Run::begin);
        Ok(alternating(runs))
    }
}

/// Takes turns between the first half of the runs and the second: threads that work side by side then seldom
/// write to the same file, which only one may at a time.
fn alternating(mut runs: Vec<Run>) -> Vec<Run> {
    let second = runs.split_off(runs.len().div_ceil(2));
    let (mut both, mut second) = (Vec::with_capacity(runs.len() + second.len()), second.into_iter());
    for run in runs {
        both.push(run);
        both.extend(second.next());
    }
    both
}

impl Run {
    /// Returns whether a chunk is near the end of this run, which is not long.
    fn takes(&self, chunk: &Chunk) -> bool {
        let end = |c: &Chunk| c.place.at.saturating_add(u64::from(c.place.sealed));
        let (Some(first), Some(last)) = (self.chunks.first(), self.chunks.last()) else { return true };
        let gap = chunk.place.at.checked_sub(end(last));
        let plain: u64 = self.chunks.iter().map(|c| u64::from(c.plain)).sum();
        gap.is_some_and(|gap| gap <= GAP_BYTES)
            && end(chunk).saturating_sub(first.place.at) <= RUN_SEALED_MAX
            && plain.saturating_add(u64::from(chunk.plain)) <= RUN_PLAIN_MAX
    }

    /// Returns the first place it fills, by file.
    fn begin(&self) -> Option<(u32, u64)> {
        let pieces = self.chunks.first().map(|chunk| chunk.pieces.as_slice()).unwrap_or_default();
        pieces.iter().map(|piece| (piece.file, piece.file_at)).min()
    }

    /// Returns how many bytes of files it holds.
    pub(super) fn bytes(&self) -> u64 {
        self.chunks.iter().flat_map(|chunk| &chunk.pieces).map(|piece| u64::from(piece.len)).sum()
    }

    pub(super) fn places(&self) -> Arc<[ChunkPlace]> {
        self.chunks.iter().map(|chunk| chunk.place).collect()
    }

    /// Returns what is left of the run without some of its chunks: it may fall to pieces.
    pub(super) fn without(self, mut drop: impl FnMut(&Chunk) -> bool) -> Vec<Run> {
        let Run { pack, chunks, files } = self;
        let mut runs: Vec<Run> = Vec::new();
        for chunk in chunks.into_iter().filter(|chunk| !drop(chunk)) {
            match runs.last_mut().filter(|run| run.takes(&chunk)) {
                Some(run) => run.chunks.push(chunk),
                None => runs.push(Run { pack: pack.clone(), chunks: vec![chunk], files: Arc::clone(&files) }),
            }
        }
        runs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(number: u64) -> File {
        File::new(number, PathBuf::from(number.to_string()), 100, true)
    }

    fn extent(pack: &str, chunk: u32, at: u64, offset: u32) -> Extent {
        let pack = pack.into();
        Extent { pack, chunk, at, sealed: 100, offset, len: 10, plain: 20, crc: 7 }
    }

    fn own() -> BackupId {
        "b".parse().unwrap()
    }

    #[test]
    fn neighbours_are_read_together_whatever_file_wants_them() {
        let mut window = Window::default();
        let mut two: Vec<Extent> = (0..3).map(|n| extent("2", n, u64::from(n) * 100, 10)).collect();
        two.push(extent("2", 9, GAP_BYTES + 301, 0));
        window.add(file(0), &two, &own()).unwrap();
        let one: Vec<Extent> = (0..3).map(|n| extent("2", n, u64::from(n) * 100, 0)).collect();
        window.add(file(1), &one, &own()).unwrap();
        window.add(file(2), &[extent("other/2", 3, 300, 0)], &own()).unwrap();
        let runs = window.runs().unwrap();
        let lengths: Vec<usize> = runs.iter().map(|run| run.chunks.len()).collect();
        assert_eq!(lengths, [3, 1, 1]);
        assert_eq!(runs[1].pack.backup.as_str(), "other", "the second half takes turns with the first");
        let files: Vec<u32> = runs[0].chunks[1].pieces.iter().map(|p| p.file).collect();
        assert_eq!(files, [1, 0], "in the order of the chunk");
        assert_eq!(runs[0].bytes(), 60);
    }

    #[test]
    fn a_stretch_is_whole_when_all_its_bytes_came() {
        let file = File::new(0, PathBuf::new(), 2 * FLUSH_BYTES + 5, true);
        let came = |at: u64, bytes: u64| file.came(at, bytes).collect::<Vec<_>>();
        assert!(came(10, FLUSH_BYTES).is_empty());
        assert_eq!(came(0, 10), [0]);
        assert_eq!(came(FLUSH_BYTES + 10, FLUSH_BYTES - 5), [FLUSH_BYTES, 2 * FLUSH_BYTES]);
        assert_eq!(came(2 * FLUSH_BYTES + 5, 0), [0_u64; 0]);
        // What no manifest of ours says must do no harm.
        assert!(came(u64::MAX, 9).is_empty());
    }

    #[test]
    fn a_run_is_not_long_and_can_be_thinned_out() {
        let mut window = Window::default();
        let big = |n: u32| Extent { plain: 1 << 20, ..extent("1", n, u64::from(n) * 100, 0) };
        let all: Vec<Extent> = (0..10).map(big).collect();
        window.add(file(0), &all, &own()).unwrap();
        let mut runs = window.runs().unwrap();
        assert_eq!(runs.iter().map(|run| run.chunks.len()).collect::<Vec<_>>(), [8, 2]);
        assert_eq!(runs[1].places().iter().map(|p| p.index).collect::<Vec<_>>(), [8, 9]);
        let left = runs.remove(0).without(|chunk| chunk.place.index % 4 != 1);
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].places().iter().map(|p| p.index).collect::<Vec<_>>(), [1, 5]);
    }

    #[test]
    fn a_chunk_has_one_place() {
        let mut window = Window::default();
        window.add(file(0), &[extent("1", 0, 0, 0), extent("1", 0, 50, 10)], &own()).unwrap();
        let said = window.runs().unwrap_err();
        assert_eq!(said, "it names two places for chunk 0 of pack b/1");
    }
}

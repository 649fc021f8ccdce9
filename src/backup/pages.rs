//! Looks at the pages of relation files on their way: wrong ones are read again, since the server may
//! be writing them just now, and listed when they stay wrong. Never alters what is copied, but for
//! taking the better of two reads.
//!
//! A page whose LSN lies at or after the backup's start will be made whole by the WAL, whatever was
//! read (`src/backend/backup/basebackup.c`, `sendFile`). Yet a damaged page may hold any LSN: those
//! are kept as [`Late`] until the stop position is known, beyond which no honest page can be.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use crate::lsn::Lsn;
use crate::manifest::backup::BadPage;
use crate::pgfile::page::{self, PAGE_BYTES, Verdict};

/// How often a wrong page is read again, each time after a longer pause.
const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest list of bad pages; past it they are counted only, and not waited for.
const LISTED_MAX: usize = 1000;

/// What is known of a relation file before it is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected {
    /// The relation's block with which the file begins.
    pub(super) first_block: u32,
    /// Pages from this position on are repaired by the WAL.
    pub(super) start: Lsn,
}

/// Pages that were found wrong.
#[derive(Debug, Default)]
pub(super) struct Wrong {
    pub(super) bad: Vec<BadPage>,
    pub(super) more: u64,
    late: Vec<Late>,
}

/// A wrong page that claims to be newer than the backup's start.
#[derive(Debug)]
struct Late {
    lsn: Lsn,
    page: BadPage,
}

impl Wrong {
    /// Checks the whole pages in `bytes`, which were read from `file` at `at`.
    pub(super) fn check(&mut self, path: &str, expected: Expected, file: &File, at: u64, bytes: &mut [u8]) {
        let first = u32::try_from(at / PAGE_BYTES as u64).unwrap_or(u32::MAX);
        let block = |index: usize| first.saturating_add(u32::try_from(index).unwrap_or(u32::MAX));
        let number = |index: usize| expected.first_block.saturating_add(block(index));
        let (pages, _) = bytes.as_chunks_mut::<PAGE_BYTES>();
        let found = |(index, page): &(usize, &mut [u8; PAGE_BYTES])| is_wrong(number(*index), page);
        let mut wrong: Vec<_> = pages.iter_mut().enumerate().filter(found).collect();
        for attempt in 0..=TRIES {
            wrong.retain(|(index, page)| {
                let lsn = page::lsn(page);
                if lsn >= expected.start {
                    self.late
                        .push(Late { lsn, page: BadPage { path: path.to_owned(), block: block(*index) } });
                }
                lsn < expected.start
            });
            if wrong.is_empty() || attempt == TRIES || (attempt > 0 && self.bad.len() >= LISTED_MAX) {
                break;
            }
            thread::sleep(FIRST_PAUSE * 2_u32.pow(attempt));
            wrong.retain_mut(|(index, page)| {
                let mut again = [0; PAGE_BYTES];
                let place = u64::from(block(*index)) * PAGE_BYTES as u64;
                // Cut off meanwhile: the WAL tells of it.
                if file.read_exact_at(&mut again, place).is_err() {
                    return false;
                }
                **page = again;
                is_wrong(number(*index), page)
            });
        }
        for (index, _) in wrong {
            self.add(BadPage { path: path.to_owned(), block: block(index) });
        }
        self.bound();
    }

    fn add(&mut self, page: BadPage) {
        if self.bad.len() < LISTED_MAX {
            self.bad.push(page);
        } else {
            self.more += 1;
        }
    }

    /// Keeps the latest: only those may turn out to be beyond the end.
    fn bound(&mut self) {
        if self.late.len() > 2 * LISTED_MAX {
            self.late.sort_by_key(|late| std::cmp::Reverse(late.lsn));
            self.late.truncate(LISTED_MAX);
        }
    }

    /// Takes in what another worker found.
    pub(super) fn merge(&mut self, other: Wrong) {
        other.bad.into_iter().for_each(|page| self.add(page));
        self.more += other.more;
        self.late.extend(other.late);
        self.bound();
    }

    /// Judges the late ones, now that the end of the WAL is known.
    pub(super) fn settle(&mut self, stop: Lsn) {
        for late in std::mem::take(&mut self.late) {
            if late.lsn > stop {
                self.add(late.page);
            }
        }
        self.bad.sort_by(|a, b| (&a.path, a.block).cmp(&(&b.path, b.block)));
    }
}

/// Judges a page whatever its LSN is. One that was never written is all zeros (`PageIsVerified`).
fn is_wrong(number: u32, page: &[u8; PAGE_BYTES]) -> bool {
    match page::verify(number, page, Lsn::MAX) {
        Verdict::New => page.iter().any(|byte| *byte != 0),
        Verdict::Wrong => true,
        Verdict::Right | Verdict::Recent => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Lsn = Lsn(1000);

    fn page(number: u32, lsn: u64, right: bool) -> [u8; PAGE_BYTES] {
        let mut page = [7; PAGE_BYTES];
        page[..4].copy_from_slice(&((lsn >> 32) as u32).to_le_bytes());
        page[4..8].copy_from_slice(&(lsn as u32).to_le_bytes());
        let sum = page::checksum(number, &page).wrapping_add(u16::from(!right));
        page[8..10].copy_from_slice(&sum.to_le_bytes());
        page
    }

    fn check(on_disk: &[[u8; PAGE_BYTES]], read: &[[u8; PAGE_BYTES]]) -> (Wrong, Vec<u8>) {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), on_disk.concat()).unwrap();
        let expected = Expected { first_block: 131_072, start: START };
        let (mut wrong, mut bytes) = (Wrong::default(), read.concat());
        bytes.extend_from_slice(b"half a page");
        wrong.check("base/5/9.1", expected, path.as_file(), 0, &mut bytes);
        (wrong, bytes)
    }

    fn blocks(wrong: &Wrong) -> Vec<u32> {
        wrong.bad.iter().map(|page| page.block).collect()
    }

    #[test]
    fn a_torn_read_is_read_again() {
        let right = [page(131_072, 5, true), page(131_073, 6, true)];
        let torn = [right[0], page(131_073, 6, false)];
        let (wrong, bytes) = check(&right, &torn);
        assert!(blocks(&wrong).is_empty() && bytes.starts_with(&right.concat()));
        let (wrong, _) = check(&right[..1], &torn);
        assert!(blocks(&wrong).is_empty(), "the file was cut off meanwhile");
    }

    #[test]
    fn a_page_that_stays_wrong_is_listed() {
        let mut scribbled = [0; PAGE_BYTES];
        scribbled[5000] = 1;
        let pages = [[0; PAGE_BYTES], page(131_073, 6, false), page(131_074, 6, true), scribbled];
        let (wrong, _) = check(&pages, &pages);
        assert_eq!(blocks(&wrong), [1, 3]);
    }

    #[test]
    fn only_an_lsn_that_can_be_excuses_a_wrong_page() {
        let pages = [page(131_072, 1000, false), page(131_073, 5000, false), page(131_074, 5001, false)];
        let (mut wrong, _) = check(&pages, &pages);
        assert!(blocks(&wrong).is_empty());
        wrong.settle(Lsn(5000));
        assert_eq!(blocks(&wrong), [2]);
    }
}

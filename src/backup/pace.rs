//! How gently a backup treats the machine of the server: how fast it reads, and who goes first.
//!
//! Only the threads that read, compress and encrypt stand back; archiving in the same process does not. A limit
//! that cannot be set is told in the log, and the backup goes on without it.

use std::fmt;
use std::num::NonZeroU64;
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How much of the machine a backup takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pace {
    /// Bytes read from the data directory in a second, by all threads together.
    pub max_rate: Option<NonZeroU64>,
    /// As nice(1) has it: from 1 on others get the processor first.
    pub nice: u8,
    pub disk: Option<DiskPriority>,
}

/// As ionice(1) has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskPriority {
    /// Only when nobody else wants the disk.
    Idle,
    /// 0 goes first, 7 last.
    BestEffort(u8),
}

impl FromStr for DiskPriority {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.split_once(':') {
            None if text == "idle" => Ok(DiskPriority::Idle),
            Some(("best-effort", level)) => {
                let level = level.parse().ok().filter(|level| *level <= 7);
                level.map(DiskPriority::BestEffort).ok_or(())
            }
            _ => Err(()),
        }
    }
}

impl fmt::Display for DiskPriority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DiskPriority::Idle => f.write_str("idle"),
            DiskPriority::BestEffort(level) => write!(f, "best-effort:{level}"),
        }
    }
}

impl Pace {
    /// Has the calling thread stand back, for as long as it lives.
    pub(super) fn stand_back(&self) {
        if self.nice > 0
            && let Err(error) = rustix::process::setpriority_process(None, self.nice.into())
        {
            tracing::warn!(%error, nice = self.nice, "the backup is no nicer than before");
        }
        if let Some(disk) = self.disk {
            ionice(disk);
        }
    }
}

/// Runs ionice(1) for the calling thread: there is no safe way to the system call, and this is run once a thread.
fn ionice(disk: DiskPriority) {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let mut command = Command::new("ionice");
    match disk {
        DiskPriority::Idle => command.args(["-c", "3"]),
        DiskPriority::BestEffort(level) => command.args(["-c", "2", "-n", &level.to_string()]),
    };
    let output = command.args(["-p", &thread]).stdin(Stdio::null()).output();
    let why = match output {
        Ok(output) if output.status.success() => return,
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    tracing::warn!(error = why, ionice = %disk, "the backup reads with the priority it had before");
}

/// Bounds how fast all threads together read.
#[derive(Debug)]
pub(super) struct Throttle {
    rate: Option<NonZeroU64>,
    /// When the bytes that were let through so far are paid for.
    paid: Mutex<Instant>,
}

/// The longest sleep, so that a backup which is to end ends.
const LONGEST_SLEEP: Duration = Duration::from_millis(100);

impl Throttle {
    pub(super) fn new(rate: Option<NonZeroU64>) -> Self {
        Throttle { rate, paid: Mutex::new(Instant::now()) }
    }

    /// Waits until so many more bytes may be read, or until `stop` says that none will be. Nothing is saved up
    /// while nobody reads.
    pub(super) fn wait(&self, bytes: usize, stop: &AtomicBool) {
        let Some(rate) = self.rate else { return };
        let turn = {
            let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
            let turn = (*paid).max(Instant::now());
            *paid = turn + Duration::from_secs_f64(bytes as f64 / rate.get() as f64);
            turn
        };
        loop {
            let left = turn.saturating_duration_since(Instant::now());
            if left.is_zero() || stop.load(Ordering::Relaxed) {
                return;
            }
            std::thread::sleep(left.min(LONGEST_SLEEP));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn all_threads_together_keep_to_the_rate() {
        let throttle = Throttle::new(NonZeroU64::new(10_000_000));
        let (began, go) = (Instant::now(), AtomicBool::new(false));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..3).for_each(|_| throttle.wait(500_000, &go)));
            }
        });
        // 12 waits; the first of all does not wait.
        let took = began.elapsed();
        assert!(took >= Duration::from_millis(549), "{took:?}");
        let stopped = AtomicBool::new(true);
        throttle.wait(1_000_000_000, &stopped);
        throttle.wait(1, &stopped);
        assert!(began.elapsed() < took + Duration::from_secs(10));
        Throttle::new(None).wait(usize::MAX, &go);
    }

    #[test]
    fn only_the_thread_that_reads_stands_back() {
        let nice = || rustix::process::getpriority_process(None).unwrap();
        let before = nice();
        let pace = Pace { nice: 19, disk: Some(DiskPriority::BestEffort(6)), ..Pace::default() };
        let (its_nice, its_disk) = std::thread::spawn(move || {
            pace.stand_back();
            let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
            let shown = Command::new("ionice").args(["-p", &thread]).output();
            (nice(), shown.map(|shown| String::from_utf8_lossy(&shown.stdout).trim().to_owned()))
        })
        .join()
        .unwrap();
        assert_eq!((its_nice, nice()), (19, before));
        match its_disk {
            Ok(disk) => assert_eq!(disk, "best-effort: prio 6"),
            // Past the test harness, which shows what a test prints only where it fails.
            Err(error) => writeln!(
                std::io::stderr(),
                "skipped: the disk's priority, because there is no ionice: {error}"
            )
            .unwrap(),
        }
    }

    #[test]
    fn priorities_are_written_as_ionice_has_them() {
        for text in ["idle", "best-effort:0", "best-effort:7"] {
            assert_eq!(text.parse::<DiskPriority>().unwrap().to_string(), text);
        }
        for text in ["", "Idle", "idle:1", "best-effort", "best-effort:8", "best-effort:-1", "realtime:0"] {
            assert!(text.parse::<DiskPriority>().is_err(), "{text}");
        }
    }
}

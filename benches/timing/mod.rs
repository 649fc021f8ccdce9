//! How long something takes on the processor, for the benches.

use std::time::{Duration, Instant};

pub(crate) const RUNS: usize = 9;

/// Returns how long this thread has run, where the system tells: what else runs does not count then.
fn busy() -> Option<Duration> {
    let said = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    said.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

/// What is shorter is run several times together: the system counts in ticks.
const SHORTEST: Duration = Duration::from_millis(50);

/// Returns the median time of one run.
pub(crate) fn median(mut run: impl FnMut()) -> Duration {
    let began = Instant::now();
    run();
    let times = (SHORTEST.as_secs_f64() / began.elapsed().as_secs_f64()).ceil().max(1.0) as u32;
    let mut all: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let (began, then) = (Instant::now(), busy());
            (0..times).for_each(|_| run());
            busy().zip(then).map_or_else(|| began.elapsed(), |(now, then)| now - then) / times
        })
        .collect();
    all.sort();
    all[RUNS / 2]
}

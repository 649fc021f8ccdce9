//! How far a node's clock was ahead at a moment, from samples around it. Pure.
//!
//! samples, and a moment by the reference's clock -> the nearest before and after -> [`Skew`]
//!
//! The rule: two clocks drift apart by [`DRIFT_PPM`] at most, so each sample says between which bounds the
//! clock was at any other moment, the wider the farther off; the truth lies within the bounds of both neighbours,
//! and is guessed on the line between them. Neighbours whose bounds do not meet saw the clock set or slewed in
//! between: then it was anywhere from the one's to the other's.
#![deny(clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::indexing_slicing))] // tests index what they made

use crate::manifest::clock::Sample;
use crate::moment::Moment;

/// How fast two clocks may drift apart, in millionths: twice what a plain quartz is off.
pub const DRIFT_PPM: i64 = 100;

/// How far a clock was ahead of the reference's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skew {
    pub ahead_micros: i64,
    /// It was so up to so much more or less.
    pub uncertain_micros: i64,
}

/// The samples between which a moment lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Neighbours {
    /// Taken at the moment or before.
    pub before: Option<Sample>,
    pub after: Option<Sample>,
}

impl Neighbours {
    /// Finds the nearest samples on both sides, in any order.
    pub fn of<'s>(samples: impl IntoIterator<Item = &'s Sample>, moment: Moment) -> Self {
        let mut found = Neighbours::default();
        for sample in samples {
            if sample.at <= moment {
                if found.before.is_none_or(|before| before.at <= sample.at) {
                    found.before = Some(*sample);
                }
            } else if found.after.is_none_or(|after| sample.at < after.at) {
                found.after = Some(*sample);
            }
        }
        found
    }

    /// Returns how far the clock was ahead at the moment; `None` without any sample.
    pub fn skew(&self, moment: Moment) -> Option<Skew> {
        let (before, after) = match (self.before, self.after) {
            (Some(before), Some(after)) => (before, after),
            (one, other) => {
                return one.or(other).map(|sample| Bounds::of(&sample, moment).around(sample.ahead_micros));
            }
        };
        let line = between(&before, &after, moment);
        let (one, other) = (Bounds::of(&before, moment), Bounds::of(&after, moment));
        let both = Bounds { low: one.low.max(other.low), high: one.high.min(other.high) };
        if both.low <= both.high {
            return Some(both.around(line));
        }
        Some(Bounds { low: one.low.min(other.low), high: one.high.max(other.high) }.around(line))
    }
}

/// Between which offsets a clock was.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    low: i64,
    high: i64,
}

impl Bounds {
    /// What a sample says of a moment.
    fn of(sample: &Sample, moment: Moment) -> Self {
        let apart = moment.micros_since(sample.at).saturating_abs();
        // Rounded up.
        let drift = apart.saturating_add(1_000_000 / DRIFT_PPM - 1) / (1_000_000 / DRIFT_PPM);
        let reach = sample.uncertain_micros.max(0).saturating_add(drift);
        Bounds {
            low: sample.ahead_micros.saturating_sub(reach),
            high: sample.ahead_micros.saturating_add(reach),
        }
    }

    /// Returns the guess, brought within the bounds, and how far it may be off.
    fn around(self, guess: i64) -> Skew {
        let ahead_micros = guess.clamp(self.low, self.high);
        let off = self.high.saturating_sub(ahead_micros).max(ahead_micros.saturating_sub(self.low));
        Skew { ahead_micros, uncertain_micros: off }
    }
}

/// Returns the offset on the line between two samples.
fn between(before: &Sample, after: &Sample, moment: Moment) -> i64 {
    let whole = i128::from(after.at.micros_since(before.at)).max(1);
    let part = i128::from(moment.micros_since(before.at)).clamp(0, whole);
    let rise = i128::from(after.ahead_micros) - i128::from(before.ahead_micros);
    let line = i128::from(before.ahead_micros) + rise * part / whole;
    i64::try_from(line).unwrap_or(before.ahead_micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: i64 = 1_000_000;

    fn sample(at: i64, ahead_micros: i64, uncertain_micros: i64) -> Sample {
        Sample { at: Moment(at), ahead_micros, uncertain_micros, lsn: None }
    }

    fn skew(samples: &[Sample], at: i64) -> Option<(i64, i64)> {
        let skew = Neighbours::of(samples, Moment(at)).skew(Moment(at))?;
        Some((skew.ahead_micros, skew.uncertain_micros))
    }

    #[test]
    fn a_moment_has_the_offset_of_its_neighbours() {
        assert_eq!(skew(&[], 0), None);
        let steady = [sample(0, 50_000, 100), sample(10 * SECOND, 50_000, 300)];
        assert_eq!(skew(&steady, 0), Some((50_000, 100)));
        assert_eq!(skew(&steady, 5 * SECOND), Some((50_000, 600)), "100 and what it may drift in 5 s");
        // Drifting by 50 ppm: on the line, and as sure as the nearer sample makes it.
        let drifting = [sample(0, 0, 0), sample(10 * SECOND, 500, 0)];
        assert_eq!(skew(&drifting, 5 * SECOND), Some((250, 250)));
        // Past the last sample it is the last one's, and less and less sure.
        assert_eq!(skew(&steady, 3610 * SECOND), Some((50_000, 360_300)));
        assert_eq!(skew(&steady, -SECOND), Some((50_000, 200)));
    }

    #[test]
    fn a_clock_that_was_set_was_anywhere_between() {
        let set = [sample(0, 500_000, 100), sample(10 * SECOND, 1_000, 100)];
        let (ahead, uncertain) = skew(&set, 5 * SECOND).unwrap();
        assert!(ahead - uncertain <= 1_000 && ahead + uncertain >= 500_000, "{ahead} ± {uncertain}");
        // At the samples themselves no more is known than that.
        assert_eq!(skew(&set, 0).map(|(ahead, _)| ahead), Some(500_000));
    }

    #[test]
    fn no_number_overflows() {
        let ends = [i64::MIN, -1, 0, 1, i64::MAX];
        for (a, b) in ends.iter().flat_map(|a| ends.map(|b| (*a, b))) {
            for moment in ends {
                let _ = skew(&[sample(a, b, a), sample(b, a, i64::MAX)], moment);
            }
        }
    }

    proptest! {
        /// A clock that drifts as fast as it may, sampled with errors as large as they say: its true offset is
        /// always within what is told, and what is told is hardly vaguer than the nearest sample alone.
        #[test]
        fn the_truth_is_within_what_is_told(
            legs in prop::collection::vec((1..60 * SECOND, -DRIFT_PPM..=DRIFT_PPM, 0..2_000i64, -100..=100i64), 1..20),
            start in -SECOND..SECOND,
            asked in 0..100u32,
        ) {
            let (mut at, mut truth) = (0, start as f64);
            let mut samples = Vec::new();
            let mut path = vec![(at, truth)];
            for (length, ppm, uncertain, error) in legs {
                samples.push(sample(at, (truth + (uncertain * error / 100) as f64) as i64, uncertain));
                at += length;
                truth += (length * ppm) as f64 / 1e6;
                path.push((at, truth));
            }
            let moment = at * i64::from(asked) / 99;
            let (ahead, uncertain) = skew(&samples, moment).unwrap();
            let leg = path.windows(2).find(|leg| leg[0].0 <= moment && moment <= leg[1].0).unwrap();
            let share = (moment - leg[0].0) as f64 / (leg[1].0 - leg[0].0) as f64;
            let real = leg[0].1 + (leg[1].1 - leg[0].1) * share;
            prop_assert!((real - ahead as f64).abs() <= uncertain as f64 + 2.0, "{real} is not {ahead} ± {uncertain}");
            let nearest = samples.iter().min_by_key(|s| (s.at.0 - moment).abs()).unwrap();
            let alone = nearest.uncertain_micros + (moment - nearest.at.0).abs() / 10_000 + 1;
            prop_assert!(uncertain <= 2 * alone);
        }
    }
}

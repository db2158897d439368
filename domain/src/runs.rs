//! How attempts run, summed up in little room: how many, how they ended, how long they took.

use std::time::Duration;

/// About how long an attempt ran: four steps to each doubling, from a millisecond to more than a week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RunLength(u8);

impl RunLength {
    /// The longest that is told apart.
    pub const LONGEST: Self = Self(120);
    const STEPS_PER_DOUBLING: f64 = 4.0;

    /// The step of a run that took so long.
    pub fn of(took: Duration) -> Self {
        let millis = took.as_secs_f64() * 1e3;
        if millis <= 1.0 {
            return Self(0);
        }
        // A float becomes the nearest number that the type has.
        Self((millis.log2() * Self::STEPS_PER_DOUBLING).ceil() as u8).min(Self::LONGEST)
    }

    /// The step of this number, as it was kept.
    pub fn from_step(step: u8) -> Self {
        Self(step).min(Self::LONGEST)
    }

    /// From 0.
    pub const fn step(self) -> u8 {
        self.0
    }

    /// The longest run of this step.
    pub fn at_most(self) -> Duration {
        Duration::from_secs_f64((f64::from(self.0) / Self::STEPS_PER_DOUBLING).exp2() / 1e3)
    }
}

/// A number of runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Runs {
    /// That ended, with a result or with an error.
    pub ended: u64,
    /// Of these, with an error.
    pub failed: u64,
    /// How long all of them took together.
    pub took: Duration,
}

impl Runs {
    /// One run.
    pub fn one(failed: bool, took: Duration) -> Self {
        Self { ended: 1, failed: u64::from(failed), took }
    }

    /// These and others.
    pub fn and(self, others: Self) -> Self {
        Self {
            ended: self.ended.saturating_add(others.ended),
            failed: self.failed.saturating_add(others.failed),
            took: self.took.saturating_add(others.took),
        }
    }
}

/// What runs of many lengths come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunSummary {
    /// All of them.
    pub runs: Runs,
    /// How long one took in the mean.
    pub mean: Duration,
    /// 95 in 100 took at most about this long: never too little, and at most a fifth too much.
    pub p95: Duration,
}

impl RunSummary {
    /// `None` where nothing ran. Any order of lengths will do, also several of one.
    pub fn of(by_length: &[(RunLength, Runs)]) -> Option<Self> {
        let runs = by_length.iter().fold(Runs::default(), |sum, (_, runs)| sum.and(*runs));
        if runs.ended == 0 {
            return None;
        }
        let mut ordered: Vec<_> = by_length.iter().map(|(length, runs)| (*length, runs.ended)).collect();
        ordered.sort_unstable();
        let wanted = runs.ended - runs.ended / 20; // at least 95 %
        let mut seen = 0_u64;
        let found = ordered.into_iter().find(|(_, ended)| {
            seen = seen.saturating_add(*ended);
            seen >= wanted
        });
        let p95 = found.map_or(RunLength::LONGEST, |(length, _)| length).at_most();
        Some(Self { runs, mean: runs.took.div_f64(runs.ended as f64), p95 })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn summary(millis: &[u64]) -> Option<RunSummary> {
        let run = |ms: &u64| {
            let took = Duration::from_millis(*ms);
            (RunLength::of(took), Runs::one(false, took))
        };
        RunSummary::of(&millis.iter().map(run).collect::<Vec<_>>())
    }

    #[test]
    fn nothing_that_ran_has_no_length() {
        assert_eq!(RunSummary::of(&[]), None);
        assert_eq!(RunSummary::of(&[(RunLength::of(Duration::ZERO), Runs::default())]), None);
    }

    #[test]
    fn one_slow_run_in_twenty_is_left_out_and_two_are_not() {
        let mut millis = vec![100; 19];
        millis.push(60_000);
        let one = summary(&millis).expect("they ran");
        assert!(one.p95 < Duration::from_millis(120), "{one:?}");
        assert_eq!(one.mean, Duration::from_millis(3095));
        millis.push(60_000);
        assert!(summary(&millis).expect("they ran").p95 >= Duration::from_secs(60));
    }

    proptest! {
        #[test]
        fn a_length_is_never_too_short_and_at_most_a_fifth_too_long(micros in 1_000_u64..900_000_000_000) {
            let took = Duration::from_micros(micros);
            let told = RunLength::of(took).at_most();
            prop_assert!(told.as_secs_f64() >= took.as_secs_f64() * 0.999_999);
            prop_assert!(told.as_secs_f64() <= took.as_secs_f64() * 1.19);
        }

        #[test]
        fn the_95th_is_one_that_ran(millis in proptest::collection::vec(1_u64..1_000_000, 1..200)) {
            let told = summary(&millis).expect("they ran").p95;
            let mut sorted = millis.clone();
            sorted.sort_unstable();
            let exact = Duration::from_millis(sorted[(sorted.len() - sorted.len() / 20) - 1]);
            prop_assert_eq!(told, RunLength::of(exact).at_most());
        }
    }
}

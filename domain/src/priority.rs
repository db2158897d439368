//! Priorities: 0 is first, 9 is last.

use std::{fmt, time::Duration};

/// 0–9, 0 first, 5 unless said otherwise. Inside one priority, older tasks go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Priority(u8);

impl Priority {
    /// Runs before everything else.
    pub const FIRST: Self = Self(0);
    /// Runs when nothing else waits.
    pub const LAST: Self = Self(9);

    /// `None` outside 0–9.
    pub fn new(value: i64) -> Option<Self> {
        u8::try_from(value).ok().filter(|v| *v <= 9).map(Self)
    }

    /// What waiting makes of it: one step more urgent for each `every` that a task has waited, so that even the last is
    /// first in the end.
    pub fn aged(self, waited: Duration, every: Duration) -> Self {
        let steps = waited.as_micros().checked_div(every.as_micros()).unwrap_or(0);
        Self(self.0.saturating_sub(u8::try_from(steps).unwrap_or(u8::MAX)))
    }

    /// 0–9.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self(5)
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_urgent_is_first_after_nine_steps_and_none_starves() {
        let minute = Duration::from_secs(60);
        for (submitted, minutes, aged) in
            [(9, 0, 9), (9, 1, 8), (9, 8, 1), (9, 9, 0), (5, 3, 2), (5, 60, 0), (0, 7, 0)]
        {
            let submitted = Priority::new(submitted).expect("valid");
            let just = submitted.aged(minute * minutes, minute);
            assert_eq!(just.get(), aged, "{submitted} after {minutes} min");
            let almost =
                submitted.aged((minute * (minutes + 1)).saturating_sub(Duration::from_micros(1)), minute);
            assert_eq!(almost, just);
        }
        assert_eq!(Priority::LAST.aged(Duration::MAX, Duration::from_secs(1)), Priority::FIRST);
        assert_eq!(Priority::LAST.aged(Duration::MAX, Duration::ZERO), Priority::LAST, "no ageing");
    }

    #[test]
    fn only_zero_to_nine_exist() {
        assert_eq!((0..=9).filter_map(Priority::new).count(), 10);
        assert!([-1, 10, i64::MAX, i64::MIN].into_iter().all(|v| Priority::new(v).is_none()));
    }
}

//! How often something may happen: a rate with a burst, kept as one moment.
//!
//! The generic cell rate algorithm (GCRA, <https://en.wikipedia.org/wiki/Generic_cell_rate_algorithm>): each permit moves
//! the *theoretical arrival time* on by the interval between two permits, and permits are given as long as that time is
//! less than a burst ahead of now. So within any time `t` at most `burst + rate · t` permits are given.

use std::{fmt, str::FromStr, time::Duration};

use crate::Timestamp;

/// A rate, such as `10/s` or `600/m`, with the burst that it allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RateLimit {
    count: u32,
    per: Unit,
    burst: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
    Hour,
}

/// A text that is no rate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a rate such as 10/s, 600/m or 5/h, of at most {most} a second", most = RateLimit::MOST_PER_SECOND)]
pub struct InvalidRate(String);

impl RateLimit {
    /// Faster needs no limit.
    pub const MOST_PER_SECOND: u32 = 10_000;
    /// The largest burst.
    pub const LARGEST_BURST: u32 = 1_000_000;

    /// The same rate with another burst: how many may pass at once after a pause, 1 to [`Self::LARGEST_BURST`].
    pub fn with_burst(self, burst: u32) -> Option<Self> {
        (1..=Self::LARGEST_BURST).contains(&burst).then_some(Self { burst, ..self })
    }

    /// How many may pass at once after a pause.
    pub fn burst(self) -> u32 {
        self.burst
    }

    /// How long it takes from one permit to the next.
    pub fn interval_between(self) -> Duration {
        Duration::from_micros(self.interval().unsigned_abs())
    }

    /// Microseconds between two permits, rounded up: rather a little too slow.
    fn interval(self) -> i64 {
        let per = self.per.micros();
        per.div_euclid(i64::from(self.count)) + i64::from(per % i64::from(self.count) != 0)
    }

    /// How far ahead the arrival time may be, in microseconds.
    fn whole_burst(self) -> i64 {
        self.interval().saturating_mul(i64::from(self.burst))
    }

    /// The arrival time as microseconds ahead of now. One that no burst explains comes from a clock that was set back.
    fn ahead(self, arrival: Option<Timestamp>, now: Timestamp) -> i64 {
        let ahead = arrival.map_or(0, |arrival| (arrival - now).num_microseconds().unwrap_or(i64::MAX));
        ahead.clamp(0, self.whole_burst())
    }

    /// How many may pass now; `arrival` is what [`RateLimit::arrival_after`] answered the last time.
    pub fn permits(self, arrival: Option<Timestamp>, now: Timestamp) -> u32 {
        let room = (self.whole_burst() - self.ahead(arrival, now)) / self.interval();
        u32::try_from(room).unwrap_or(self.burst).min(self.burst)
    }

    /// What to keep after so many have passed.
    pub fn arrival_after(self, arrival: Option<Timestamp>, now: Timestamp, passed: u32) -> Timestamp {
        let micros = self.ahead(arrival, now) + self.interval().saturating_mul(i64::from(passed));
        now.checked_add_signed(chrono::TimeDelta::microseconds(micros)).unwrap_or(Timestamp::MAX_UTC)
    }

    /// How long until the next may pass; zero when one may now.
    pub fn wait(self, arrival: Option<Timestamp>, now: Timestamp) -> Duration {
        let over = self.ahead(arrival, now) + self.interval() - self.whole_burst();
        Duration::from_micros(u64::try_from(over).unwrap_or(0))
    }
}

impl Unit {
    fn micros(self) -> i64 {
        match self {
            Self::Second => 1_000_000,
            Self::Minute => 60_000_000,
            Self::Hour => 3_600_000_000,
        }
    }
}

impl FromStr for RateLimit {
    type Err = InvalidRate;

    /// Its burst is what passes in a second, at least one.
    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        let wrong = || InvalidRate(text.chars().take(40).collect());
        let (count, unit) = text.trim().split_once('/').ok_or_else(wrong)?;
        let count: u32 = count.trim().parse().map_err(|_| wrong())?;
        let per = match unit.trim() {
            "s" => Unit::Second,
            "m" => Unit::Minute,
            "h" => Unit::Hour,
            _ => return Err(wrong()),
        };
        let seconds = u32::try_from(per.micros() / 1_000_000).unwrap_or(1);
        if count == 0 || count > Self::MOST_PER_SECOND.saturating_mul(seconds) {
            return Err(wrong());
        }
        Ok(Self { count, per, burst: (count / seconds).max(1) })
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per {
            Unit::Second => 's',
            Unit::Minute => 'm',
            Unit::Hour => 'h',
        };
        write!(f, "{}/{unit}", self.count)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rate(text: &str) -> RateLimit {
        text.parse().expect("a rate")
    }

    fn at(micros: i64) -> Timestamp {
        Timestamp::from_timestamp_micros(1_800_000_000_000_000 + micros).expect("a moment")
    }

    #[test]
    fn rates_are_read_and_shown_alike() {
        for (text, burst) in [("10/s", 10), ("600/m", 10), ("5/h", 1), ("1/s", 1), ("10000/s", 10_000)] {
            assert_eq!((rate(text).to_string().as_str(), rate(text).burst()), (text, burst));
        }
        for text in ["", "10", "0/s", "-1/s", "10/d", "1.5/s", "10001/s", "/s", "600001/m0"] {
            assert!(text.parse::<RateLimit>().is_err(), "{text}");
        }
        assert_eq!(rate("1/s").with_burst(0), None);
        assert_eq!(rate("1/s").with_burst(7).map(RateLimit::burst), Some(7));
    }

    #[test]
    fn after_a_burst_they_come_one_by_one() {
        let limit = rate("10/s").with_burst(3).expect("a burst");
        assert_eq!(limit.permits(None, at(0)), 3);
        let arrival = Some(limit.arrival_after(None, at(0), 3));
        assert_eq!(
            (limit.permits(arrival, at(0)), limit.wait(arrival, at(0))),
            (0, Duration::from_millis(100))
        );
        assert_eq!(limit.permits(arrival, at(99_999)), 0);
        assert_eq!(
            (limit.permits(arrival, at(100_000)), limit.wait(arrival, at(100_000))),
            (1, Duration::ZERO)
        );
        assert_eq!(limit.permits(arrival, at(10_000_000)), 3, "no more than a burst, however long the pause");
    }

    #[test]
    fn a_clock_that_is_set_back_costs_a_burst_at_most() {
        let limit = rate("10/s");
        let arrival = Some(limit.arrival_after(None, at(0), 5));
        let an_hour_before = at(-3_600_000_000);
        assert!(limit.wait(arrival, an_hour_before) <= Duration::from_millis(100));
    }

    proptest! {
        /// However often and greedily somebody asks.
        #[test]
        fn never_more_than_a_burst_and_the_rate(
            count in 1_u32..5_000, burst in 1_u32..50, pauses in proptest::collection::vec(0_i64..2_000_000, 1..60)
        ) {
            let limit = rate(&format!("{count}/s")).with_burst(burst).expect("a burst");
            let (mut arrival, mut now, mut passed) = (None, 0_i64, Vec::new());
            for pause in pauses {
                now += pause;
                let permits = limit.permits(arrival, at(now));
                arrival = Some(limit.arrival_after(arrival, at(now), permits));
                passed.push((now, u64::from(permits)));
            }
            for (from, (start, _)) in passed.iter().enumerate() {
                let mut sum = 0;
                for (end, permits) in &passed[from..] {
                    sum += permits;
                    let time = (end - start) as f64 / 1e6;
                    prop_assert!(sum as f64 <= f64::from(burst) + f64::from(count) * time + 1e-6);
                }
            }
        }
    }
}

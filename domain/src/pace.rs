//! How many tasks of one type a worker may start in a while.

use std::{fmt, str::FromStr, time::Duration};

/// So many in a second, a minute or an hour; written `10/s`, `600/m`, `5/h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    count: u32,
    unit: Unit,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Second,
    Minute,
    Hour,
}

impl Unit {
    fn letter(self) -> char {
        match self {
            Self::Second => 's',
            Self::Minute => 'm',
            Self::Hour => 'h',
        }
    }

    fn length(self) -> Duration {
        Duration::from_secs(match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
        })
    }
}

/// Why a text is no pace; reads as a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a rate such as 10/s, 600/m or 5/h, with a whole number from 1 to 1000000")]
pub struct InvalidPace(String);

impl Pace {
    /// The most that can be asked for in one unit.
    pub const MOST: u32 = 1_000_000;

    /// From one task to the next.
    pub fn interval(self) -> Duration {
        self.unit.length() / self.count
    }

    /// How many may start at once after a rest: what fits into a second, at least one.
    pub fn burst(self) -> u32 {
        u32::try_from(Duration::from_secs(1).as_nanos() / self.interval().as_nanos().max(1))
            .unwrap_or(Self::MOST)
            .max(1)
    }
}

impl FromStr for Pace {
    type Err = InvalidPace;

    fn from_str(text: &str) -> Result<Self, InvalidPace> {
        let wrong = || InvalidPace(text.chars().take(40).collect());
        let (count, unit) = text.trim().split_once('/').ok_or_else(wrong)?;
        let unit = match unit.trim() {
            "s" => Unit::Second,
            "m" => Unit::Minute,
            "h" => Unit::Hour,
            _ => return Err(wrong()),
        };
        let count: u32 = count.trim().parse().map_err(|_| wrong())?;
        if (1..=Self::MOST).contains(&count) { Ok(Self { count, unit }) } else { Err(wrong()) }
    }
}

impl fmt::Display for Pace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.unit.letter())
    }
}

/// Holds the tasks of one type to a pace. A task that comes too early is told when to come back; those that are told so
/// stand in a line, one interval apart, so that they do not all come back at once.
///
/// The generic cell rate algorithm (ITU-T I.371): one number says when the next task would be on time. Moments are
/// counted on a clock of the caller's that only goes forward.
#[derive(Debug, Clone)]
pub struct Throttle {
    pace: Pace,
    /// When a task would be on time.
    on_time: Duration,
    /// When the last one in the line comes back.
    end_of_line: Duration,
}

impl Throttle {
    /// The longest that a task is put off: a lower pace means that it may be put off again.
    pub const LONGEST: Duration = Duration::from_secs(300);

    /// From a rest.
    pub fn new(pace: Pace) -> Self {
        Self { pace, on_time: Duration::ZERO, end_of_line: Duration::ZERO }
    }

    /// What it holds to.
    pub fn pace(&self) -> Pace {
        self.pace
    }

    /// Lets a task start now, or says how long it is to wait.
    pub fn admit(&mut self, now: Duration) -> Result<(), Duration> {
        let interval = self.pace.interval();
        let early = interval * (self.pace.burst() - 1);
        let opens = self.on_time.saturating_sub(early);
        if now >= opens {
            self.on_time = self.on_time.max(now) + interval;
            return Ok(());
        }
        let place = opens.max(self.end_of_line + interval).min(now + Self::LONGEST);
        self.end_of_line = place;
        Err(place - now)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pace(text: &str) -> Pace {
        text.parse().expect("a pace")
    }

    #[test]
    fn a_pace_is_written_and_read() {
        for (text, micros, burst) in
            [("10/s", 100_000, 10), ("600/m", 100_000, 10), ("1/m", 60_000_000, 1), ("5/h", 720_000_000, 1)]
        {
            assert_eq!(pace(text).to_string(), text);
            assert_eq!(pace(text).interval(), Duration::from_micros(micros), "{text}");
            assert_eq!(pace(text).burst(), burst, "{text}");
        }
        for text in ["", "10", "0/s", "-1/s", "1.5/s", "10/d", "1000001/s", "/s", "10 per second"] {
            assert!(text.parse::<Pace>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn who_comes_too_early_is_given_a_place_in_a_line() {
        let mut throttle = Throttle::new(pace("1/s"));
        let now = Duration::from_secs(100);
        assert_eq!(throttle.admit(now), Ok(()));
        for place in 1..=5 {
            assert_eq!(throttle.admit(now), Err(Duration::from_secs(place)));
        }
        for place in 1..=5 {
            assert_eq!(throttle.admit(now + Duration::from_secs(place)), Ok(()), "on time");
        }
    }

    #[test]
    fn nobody_is_put_off_for_long() {
        let mut throttle = Throttle::new(pace("1/h"));
        assert_eq!(throttle.admit(Duration::ZERO), Ok(()));
        for _ in 0..1000 {
            assert_eq!(throttle.admit(Duration::from_secs(1)), Err(Throttle::LONGEST));
        }
    }

    proptest! {
        #[test]
        fn never_more_start_than_a_burst_and_what_the_pace_allows(
            count in 1_u32..2_000, unit in 0_usize..3, gaps in proptest::collection::vec(0_u64..400_000, 1..400)
        ) {
            let pace = Pace { count, unit: [Unit::Second, Unit::Minute, Unit::Hour][unit] };
            let mut throttle = Throttle::new(pace);
            let mut now = Duration::from_secs(10);
            let mut starts: Vec<Duration> = Vec::new();
            for gap in gaps {
                now += Duration::from_micros(gap);
                if throttle.admit(now).is_ok() {
                    starts.push(now);
                }
            }
            for (i, first) in starts.iter().enumerate() {
                for (j, last) in starts.iter().enumerate().skip(i) {
                    let allowed = pace.burst() as f64 + (*last - *first).as_secs_f64() / pace.interval().as_secs_f64();
                    prop_assert!((j - i + 1) as f64 <= allowed + 1e-6);
                }
            }
        }
    }
}

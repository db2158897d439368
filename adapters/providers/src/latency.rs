//! How long a simulated answer takes: `5s..15s`, `2s`, `500ms..1s`, `0s`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

/// A latency between two bounds, both included, in whole milliseconds and at most a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LatencyRange {
    min: Duration,
    max: Duration,
}

/// Why a text is not a latency range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a latency: {problem}; write a duration such as 2s, 500ms or 0s, or a range such as 5s..15s"
)]
pub struct LatencyRangeError {
    text: String,
    problem: String,
}

const LONGEST: Duration = Duration::from_secs(24 * 3600);
/// Longest first: `ms` also ends in `s`.
const UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

impl LatencyRange {
    /// No latency: answers come at once.
    pub const ZERO: Self = Self { min: Duration::ZERO, max: Duration::ZERO };

    /// Both bounds included. Refuses a minimum above the maximum, more than a day and fractions of a millisecond.
    pub fn new(min: Duration, max: Duration) -> Result<Self, LatencyRangeError> {
        Self::checked(min, max)
            .map_err(|problem| LatencyRangeError { text: format!("{min:?}..{max:?}"), problem })
    }

    fn checked(min: Duration, max: Duration) -> Result<Self, String> {
        if let Some(odd) = [min, max].into_iter().find(|bound| bound.subsec_nanos() % 1_000_000 != 0) {
            return Err(format!("{odd:?} is finer than a millisecond"));
        }
        if max > LONGEST || min > LONGEST {
            return Err("it is longer than a day".to_owned());
        }
        if min > max {
            return Err(format!("the minimum {} is above the maximum {}", show(min), show(max)));
        }
        Ok(Self { min, max })
    }

    /// The shortest latency.
    pub fn min(&self) -> Duration {
        self.min
    }

    /// The longest latency.
    pub fn max(&self) -> Duration {
        self.max
    }

    /// The latency at `chance`, a uniform number in `[0, 1]`.
    pub fn at(&self, chance: f64) -> Duration {
        self.min + (self.max - self.min).mul_f64(chance.clamp(0.0, 1.0))
    }
}

impl Default for LatencyRange {
    /// `5s..15s`: about what a hosted model takes for a page of text.
    fn default() -> Self {
        Self { min: Duration::from_secs(5), max: Duration::from_secs(15) }
    }
}

impl FromStr for LatencyRange {
    type Err = LatencyRangeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = match text.split_once("..") {
            Some((min, max)) => duration(min).and_then(|min| Self::checked(min, duration(max)?)),
            None => duration(text).and_then(|both| Self::checked(both, both)),
        };
        parsed.map_err(|problem| LatencyRangeError { text: text.to_owned(), problem })
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("a duration is missing".to_owned());
    }
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let Some((number, unit)) =
        UNITS.iter().find_map(|(name, millis)| Some((text.strip_suffix(name)?, *millis)))
    else {
        return Err(format!("{text:?} has no unit (ms, s, m or h)"));
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return Err(format!("{number:?} is not a number"));
    }
    // Whole numbers only: 0.1 s has no exact binary form, and "finer than a millisecond" should mean what was typed.
    let too_long = || format!("{text:?} is longer than a day");
    let whole: u64 = whole.parse().map_err(|_| too_long())?;
    let fraction = fraction.trim_end_matches('0');
    let scale = 10_u64.checked_pow(fraction.len() as u32);
    let parts = if fraction.is_empty() { Some(0) } else { fraction.parse::<u64>().ok() };
    let millis = match (parts.and_then(|parts| parts.checked_mul(unit)), scale) {
        (Some(parts), Some(scale)) if parts % scale == 0 => parts / scale,
        _ => return Err(format!("{text:?} is finer than a millisecond")),
    };
    let millis = whole.checked_mul(unit).and_then(|whole| whole.checked_add(millis)).ok_or_else(too_long)?;
    Ok(Duration::from_millis(millis))
}

fn show(duration: Duration) -> String {
    if duration.subsec_millis() == 0 {
        format!("{}s", duration.as_secs())
    } else {
        format!("{}ms", duration.as_millis())
    }
}

impl fmt::Display for LatencyRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.min == self.max {
            f.write_str(&show(self.min))
        } else {
            write!(f, "{}..{}", show(self.min), show(self.max))
        }
    }
}

impl TryFrom<String> for LatencyRange {
    type Error = LatencyRangeError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<LatencyRange> for String {
    fn from(range: LatencyRange) -> Self {
        range.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn millis(text: &str) -> (u128, u128) {
        let range: LatencyRange = text.parse().unwrap();
        (range.min().as_millis(), range.max().as_millis())
    }

    #[test]
    fn reads_durations_and_ranges() {
        assert_eq!(millis("5s..15s"), (5_000, 15_000));
        assert_eq!(millis("2s"), (2_000, 2_000));
        assert_eq!(millis("0s"), (0, 0));
        assert_eq!(millis("0"), (0, 0));
        assert_eq!(millis("500ms..1s"), (500, 1_000));
        assert_eq!(millis(" 1.5s .. 0.1m "), (1_500, 6_000));
        assert_eq!(millis("24h"), (86_400_000, 86_400_000));
    }

    #[test]
    fn says_what_is_wrong_with_which_part() {
        let problem = |text: &str| text.parse::<LatencyRange>().unwrap_err().to_string();
        for (text, part) in [
            ("", "a duration is missing"),
            ("5s..", "a duration is missing"),
            ("5", "\"5\" has no unit"),
            ("5x..15s", "\"5x\" has no unit"),
            ("abcs", "\"abc\" is not a number"),
            ("-1s", "\"-1\" is not a number"),
            ("1.s", "\"1.\" is not a number"),
            ("15s..5s", "the minimum 15s is above the maximum 5s"),
            ("0.0005s", "finer than a millisecond"),
            ("1.5ms", "finer than a millisecond"),
            ("25h", "longer than a day"),
            ("99999999999999999999s", "longer than a day"),
            ("9999999999999999999h", "longer than a day"),
        ] {
            let said = problem(text);
            assert!(said.contains(part), "{text:?}: {said}");
            assert!(said.starts_with(&format!("{text:?} is not a latency: ")), "{said}");
            assert!(said.ends_with("or a range such as 5s..15s"), "{said}");
        }
    }

    #[test]
    fn refuses_bad_bounds_from_code() {
        assert!(LatencyRange::new(Duration::from_secs(2), Duration::from_secs(1)).is_err());
        assert!(LatencyRange::new(Duration::ZERO, Duration::from_micros(1)).is_err());
        assert_eq!(LatencyRange::new(Duration::ZERO, Duration::ZERO), Ok(LatencyRange::ZERO));
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(min in 0_u64..86_400_000, more in 0_u64..86_400_000) {
            let max = (min + more).min(86_400_000);
            let range = LatencyRange::new(Duration::from_millis(min), Duration::from_millis(max)).unwrap();
            prop_assert_eq!(range.to_string().parse::<LatencyRange>().unwrap(), range);
        }

        #[test]
        fn every_chance_stays_in_the_range(min in 0_u64..10_000, more in 0_u64..10_000, chance in 0.0..=1.0_f64) {
            let (min, max) = (Duration::from_millis(min), Duration::from_millis(min + more));
            let at = LatencyRange::new(min, max).unwrap().at(chance);
            prop_assert!(min <= at && at <= max);
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,20}") {
            if let Ok(range) = text.parse::<LatencyRange>() {
                prop_assert!(range.min() <= range.max());
            }
        }
    }
}

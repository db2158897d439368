//! The arithmetic: percentiles of one measurement, median and spread of several.

use std::time::Duration;

/// The value at a share (0 to 1) of a list: the smallest value that at least so many are not above. `None` of an empty
/// list.
///
/// The nearest-rank definition: <https://en.wikipedia.org/wiki/Percentile#The_nearest-rank_method>.
pub fn percentile(values: &mut [Duration], share: f64) -> Option<Duration> {
    values.sort_unstable();
    let rank = (values.len() as f64 * share.clamp(0.0, 1.0)).ceil() as usize;
    values.get(rank.saturating_sub(1)).copied()
}

/// The middle value; the mean of the two in the middle where their number is even. `None` of an empty list.
pub fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        even if even.is_multiple_of(2) => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
        _ => Some(sorted[middle]),
    }
}

/// The smallest and the largest value. `None` of an empty list.
pub fn spread(values: &[f64]) -> Option<(f64, f64)> {
    let smallest = values.iter().copied().min_by(f64::total_cmp)?;
    let largest = values.iter().copied().max_by(f64::total_cmp)?;
    Some((smallest, largest))
}

/// How many per second; not a number where no time has passed.
pub fn rate(count: usize, time: Duration) -> f64 {
    if time.is_zero() { f64::NAN } else { count as f64 / time.as_secs_f64() }
}

/// In milliseconds.
pub fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(values: &[u64]) -> Vec<Duration> {
        values.iter().map(|value| Duration::from_millis(*value)).collect()
    }

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let mut values = millis(&[30, 10, 20, 40]);
        for (share, expected) in [(0.0, 10), (0.25, 10), (0.5, 20), (0.51, 30), (0.99, 40), (1.0, 40)] {
            assert_eq!(percentile(&mut values, share), Some(Duration::from_millis(expected)), "{share}");
        }
        let mut hundred = millis(&(1..=100).collect::<Vec<_>>());
        assert_eq!(percentile(&mut hundred, 0.99), Some(Duration::from_millis(99)));
        assert_eq!(percentile(&mut [], 0.5), None);
    }

    #[test]
    fn medians_of_odd_and_even_numbers() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[7.0]), Some(7.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn the_spread_names_both_ends() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some((1.0, 3.0)));
        assert_eq!(spread(&[]), None);
    }

    #[test]
    fn a_rate_of_no_time_is_no_number() {
        assert!((rate(50, Duration::from_millis(100)) - 500.0).abs() < 1e-9);
        assert!(rate(50, Duration::ZERO).is_nan());
    }
}

//! When a failed attempt is tried again, and after how long.

use std::time::Duration;

use crate::{ErrorClass, Failure};

/// How the wait grows with the number of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backoff {
    /// The same wait each time.
    Fixed(Duration),
    /// "Full jitter": a random wait between zero and `base · 2^(failures-1)`, at most `cap`.
    /// Source: <https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/>.
    Exponential {
        /// The upper end of the first wait.
        base: Duration,
        /// No wait is longer.
        cap: Duration,
    },
}

/// Which errors are tried again, and when. The number of tries belongs to the task ([`crate::Limits`]).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The wait before the next try.
    pub backoff: Backoff,
    /// Classes that are never tried again under this policy. `Permanent` never is, listed or not.
    pub never: Vec<ErrorClass>,
}

/// The wait before another try of a rate-limited task when the provider named none.
const RATE_LIMIT_PAUSE: Duration = Duration::from_secs(5);
/// A server that asks for more than a day is taken as asking for a day.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

impl Default for RetryPolicy {
    /// Exponential with full jitter from 2 s to 5 min, for every class but `Permanent`.
    fn default() -> Self {
        let backoff = Backoff::Exponential { base: Duration::from_secs(2), cap: Duration::from_secs(300) };
        Self { backoff, never: Vec::new() }
    }
}

impl RetryPolicy {
    /// Whether errors of this class are worth another try.
    pub fn retries(&self, class: ErrorClass) -> bool {
        class != ErrorClass::Permanent && !self.never.contains(&class)
    }

    /// How long to wait after the `failures`-th failure (from 1). `chance` is a uniform number in `[0, 1)`; it spreads
    /// the wait of [`Backoff::Exponential`]. The other side's Retry-After wins, up to a day.
    pub fn wait(&self, failure: &Failure, failures: u32, chance: f64) -> Duration {
        if let Some(asked) = failure.retry_after {
            return asked.min(LONGEST_WAIT);
        }
        if failure.class == ErrorClass::RateLimited {
            return RATE_LIMIT_PAUSE.mul_f64(1.0 + chance);
        }
        match self.backoff {
            Backoff::Fixed(wait) => wait,
            Backoff::Exponential { base, cap } => {
                let doubled =
                    base.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
                doubled.min(cap).mul_f64(chance.clamp(0.0, 1.0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn permanent_errors_are_never_tried_again() {
        let policy = RetryPolicy::default();
        let retried: Vec<_> = ErrorClass::ALL.into_iter().filter(|class| policy.retries(*class)).collect();
        assert_eq!(
            retried,
            [ErrorClass::Transient, ErrorClass::RateLimited, ErrorClass::TimedOut, ErrorClass::Panicked]
        );
    }

    #[test]
    fn retry_after_wins_over_the_backoff() {
        let asked = Duration::from_millis(1234);
        let failure = Failure::transient("busy", "try later").retry_after(Some(asked));
        assert_eq!(RetryPolicy::default().wait(&failure, 3, 0.5), asked);
    }

    #[test]
    fn a_fixed_wait_is_fixed() {
        let policy = RetryPolicy {
            backoff: Backoff::Fixed(Duration::from_secs(60)),
            never: vec![ErrorClass::Panicked],
        };
        assert_eq!(policy.wait(&Failure::transient("x", "x"), 9, 0.9), Duration::from_secs(60));
        assert!(!policy.retries(ErrorClass::Panicked));
    }

    proptest! {
        #[test]
        fn full_jitter_stays_between_zero_and_the_doubled_base(failures in 1_u32..200, chance in 0.0..1.0_f64) {
            let wait = RetryPolicy::default().wait(&Failure::transient("x", "x"), failures, chance);
            let ceiling = 2.0 * 2_f64.powi(failures.min(20) as i32 - 1);
            prop_assert!(wait.as_secs_f64() <= ceiling.min(300.0) + 1e-6);
        }
    }
}

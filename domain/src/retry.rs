//! When a failed attempt is tried again, and after how long.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{ErrorClass, Failure};

/// How the wait grows with the number of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backoff {
    /// The same wait each time.
    Fixed(Duration),
    /// `base · 2^(failures-1)`, at most `cap`.
    Exponential {
        /// The first wait.
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
    /// "Full jitter": a random wait between zero and what the back-off says.
    /// Source: <https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/>.
    pub jitter: bool,
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
        Self { backoff, jitter: true, never: Vec::new() }
    }
}

impl RetryPolicy {
    /// Whether errors of this class are worth another try.
    pub fn retries(&self, class: ErrorClass) -> bool {
        class != ErrorClass::Permanent && !self.never.contains(&class)
    }

    /// How long to wait after the `failures`-th failure (from 1). `chance` is a uniform number in `[0, 1)`; it spreads
    /// the wait where there is jitter. The other side's Retry-After wins, up to a day.
    pub fn wait(&self, failure: &Failure, failures: u32, chance: f64) -> Duration {
        if let Some(asked) = failure.retry_after {
            return asked.min(LONGEST_WAIT);
        }
        if failure.class == ErrorClass::RateLimited {
            return RATE_LIMIT_PAUSE.mul_f64(1.0 + chance);
        }
        let wait = match self.backoff {
            Backoff::Fixed(wait) => wait,
            Backoff::Exponential { base, cap } => {
                let doubled =
                    base.saturating_mul(1_u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
                doubled.min(cap)
            }
        };
        if self.jitter { wait.mul_f64(chance.clamp(0.0, 1.0)) } else { wait }
    }
}

/// A policy as people write it, in a submission and in configuration; what is left out has its default. It is kept with
/// a task in this form, too.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryTerms {
    /// `fixed` or `exponential`, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<String>,
    /// The first wait; 2 s for exponential ones, a minute for fixed ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delay_seconds: Option<f64>,
    /// No exponential wait is longer; 5 min, or the first wait where that is longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_delay_seconds: Option<f64>,
    /// Whether waits are spread between zero and what the back-off says; exponential ones are, unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jitter: Option<bool>,
    /// Only errors of these classes are tried again; all but `permanent` unless said otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on: Option<Vec<String>>,
}

/// What is wrong with one field of [`RetryTerms`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct InvalidRetry {
    /// Its name.
    pub field: &'static str,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl RetryTerms {
    /// The policy that these terms stand for, or all that is wrong with them.
    pub fn policy(&self) -> Result<RetryPolicy, Vec<InvalidRetry>> {
        let mut wrong = Vec::new();
        let mut refuse = |field, message| wrong.push(InvalidRetry { field, message });
        let exponential = match self.backoff.as_deref() {
            None | Some("exponential") => true,
            Some("fixed") => false,
            Some(other) => {
                let shown: String = other.chars().take(80).collect();
                refuse("backoff", format!("{shown:?} is neither fixed nor exponential"));
                true
            }
        };
        let mut seconds = |field, value: Option<f64>| {
            let seconds = value?;
            let wait = Duration::try_from_secs_f64(seconds).ok().filter(|wait| *wait <= LONGEST_WAIT);
            if wait.is_none() {
                let most = LONGEST_WAIT.as_secs();
                refuse(field, format!("{seconds} is not between 0 and {most} seconds"));
            }
            wait
        };
        let delay = seconds("delay_seconds", self.delay_seconds);
        let most = seconds("max_delay_seconds", self.max_delay_seconds);
        if !exponential && self.max_delay_seconds.is_some() {
            refuse("max_delay_seconds", "it goes with the exponential back-off".to_owned());
        }
        let mut on = Vec::new();
        for name in self.on.iter().flatten() {
            match ErrorClass::ALL.into_iter().find(|class| class.as_str() == name) {
                Some(ErrorClass::Permanent) => {
                    refuse("on", "errors of the class permanent are never tried again".to_owned());
                }
                Some(class) => on.push(class),
                None => {
                    let shown: String = name.chars().take(80).collect();
                    let known = ErrorClass::ALL.map(ErrorClass::as_str).join(", ");
                    refuse("on", format!("{shown:?} is none of {known}"));
                }
            }
        }
        let backoff = if exponential {
            let base = delay.unwrap_or(Duration::from_secs(2));
            let cap = most.unwrap_or(Duration::from_secs(300).max(base));
            if cap < base {
                refuse("max_delay_seconds", "it is below delay_seconds".to_owned());
            }
            Backoff::Exponential { base, cap }
        } else {
            Backoff::Fixed(delay.unwrap_or(Duration::from_secs(60)))
        };
        let never = match self.on {
            None => Vec::new(),
            Some(_) => ErrorClass::ALL
                .into_iter()
                .filter(|class| *class != ErrorClass::Permanent && !on.contains(class))
                .collect(),
        };
        let policy = RetryPolicy { backoff, jitter: self.jitter.unwrap_or(exponential), never };
        if wrong.is_empty() { Ok(policy) } else { Err(wrong) }
    }

    /// As it is kept with a task.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads what was kept.
    pub fn from_text(text: &str) -> Result<RetryPolicy, String> {
        let terms: Self = serde_json::from_str(text).map_err(|error| error.to_string())?;
        terms.policy().map_err(|wrong| wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
    }
}

impl From<&RetryPolicy> for RetryTerms {
    fn from(policy: &RetryPolicy) -> Self {
        let (backoff, delay, most) = match policy.backoff {
            Backoff::Fixed(wait) => ("fixed", wait, None),
            Backoff::Exponential { base, cap } => ("exponential", base, Some(cap.as_secs_f64())),
        };
        let retried = ErrorClass::ALL.into_iter().filter(|class| policy.retries(*class));
        Self {
            backoff: Some(backoff.to_owned()),
            delay_seconds: Some(delay.as_secs_f64()),
            max_delay_seconds: most,
            jitter: Some(policy.jitter),
            on: Some(retried.map(|class| class.as_str().to_owned()).collect()),
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
            jitter: false,
            never: vec![ErrorClass::Panicked],
        };
        assert_eq!(policy.wait(&Failure::transient("x", "x"), 9, 0.9), Duration::from_secs(60));
        assert!(!policy.retries(ErrorClass::Panicked));
    }

    fn terms(text: &str) -> RetryTerms {
        serde_json::from_str(text).expect("readable terms")
    }

    #[test]
    fn terms_say_what_celery_says_with_countdown_and_max_retries() {
        let policy = terms(r#"{"backoff":"fixed","delay_seconds":60}"#).policy().expect("a policy");
        assert_eq!(policy.wait(&Failure::transient("x", "x"), 3, 0.1), Duration::from_secs(60));
        assert_eq!(RetryTerms::default().policy(), Ok(RetryPolicy::default()));
    }

    #[test]
    fn terms_choose_by_error_class() {
        let policy = terms(r#"{"on":["transient","rate_limited"]}"#).policy().expect("a policy");
        let retried: Vec<_> = ErrorClass::ALL.into_iter().filter(|class| policy.retries(*class)).collect();
        assert_eq!(retried, [ErrorClass::Transient, ErrorClass::RateLimited]);
        let policy = terms(r#"{"on":[]}"#).policy().expect("a policy");
        assert!(ErrorClass::ALL.into_iter().all(|class| !policy.retries(class)), "nothing at all");
    }

    #[test]
    fn every_mistake_in_terms_is_named() {
        for (text, fields) in [
            (r#"{"backoff":"linear"}"#, vec!["backoff"]),
            (r#"{"delay_seconds":-1,"max_delay_seconds":1e9}"#, vec!["delay_seconds", "max_delay_seconds"]),
            (r#"{"backoff":"fixed","max_delay_seconds":5}"#, vec!["max_delay_seconds"]),
            (r#"{"delay_seconds":10,"max_delay_seconds":5}"#, vec!["max_delay_seconds"]),
            (r#"{"on":["permanent","sometimes"]}"#, vec!["on", "on"]),
        ] {
            let wrong = terms(text).policy().expect_err("wrong terms");
            assert_eq!(wrong.iter().map(|wrong| wrong.field).collect::<Vec<_>>(), fields, "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_policy_is_kept_as_it_is(
            base in 0_u64..86_400_000_000, more in 0_u64..1_000_000, fixed in any::<bool>(), jitter in any::<bool>(),
            classes in 0_usize..16
        ) {
            let base = Duration::from_micros(base);
            let cap = (base + Duration::from_micros(more)).min(LONGEST_WAIT);
            let backoff = if fixed { Backoff::Fixed(base) } else { Backoff::Exponential { base, cap } };
            let others = ErrorClass::ALL.into_iter().filter(|class| *class != ErrorClass::Permanent);
            let never = others.enumerate().filter(|(n, _)| classes & (1 << n) != 0).map(|(_, class)| class).collect();
            let policy = RetryPolicy { backoff, jitter, never };
            prop_assert_eq!(RetryTerms::from_text(&RetryTerms::from(&policy).to_text()), Ok(policy));
        }

        #[test]
        fn full_jitter_stays_between_zero_and_the_doubled_base(failures in 1_u32..200, chance in 0.0..1.0_f64) {
            let wait = RetryPolicy::default().wait(&Failure::transient("x", "x"), failures, chance);
            let ceiling = 2.0 * 2_f64.powi(failures.min(20) as i32 - 1);
            prop_assert!(wait.as_secs_f64() <= ceiling.min(300.0) + 1e-6);
        }
    }
}

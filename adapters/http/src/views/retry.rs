//! Retry policies over the wire: the same shape in submissions and in answers.

use domain::{RetryPolicy, RetryTerms};
use poem_openapi::{Enum, Object};
use serde::Serialize;

/// How the wait grows with the number of failures.
#[derive(Debug, Clone, Copy, PartialEq, Enum, Serialize)]
#[oai(rename = "Backoff", rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub(crate) enum BackoffView {
    /// The same wait each time.
    Fixed,
    /// Twice as long each time.
    Exponential,
}

/// What kind of error ended an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Enum, Serialize)]
#[oai(rename = "ErrorClass", rename_all = "snake_case")]
#[serde(rename_all = "snake_case")]
pub(crate) enum ErrorClassView {
    /// The network, a busy or broken server.
    Transient,
    /// The provider's rate limit.
    RateLimited,
    /// The input or the answer is at fault: never tried again.
    Permanent,
    /// The soft or hard time limit passed.
    TimedOut,
    /// The handler panicked.
    Panicked,
}

/// When and whether failures are tried again; how often is `max_attempts`.
#[derive(Debug, Clone, PartialEq, Object, Serialize)]
#[oai(rename = "RetryPolicy")]
pub(crate) struct RetryView {
    // `exponential` unless said otherwise. No description of its own: client generators want a bare reference to an enum.
    backoff: Option<BackoffView>,
    /// The first wait; unless said otherwise 2 for an exponential back-off, 60 for a fixed one.
    #[oai(validator(minimum(value = "0"), maximum(value = "86400")))]
    delay_seconds: Option<f64>,
    /// No exponential wait is longer; 300 unless said otherwise.
    #[oai(validator(minimum(value = "0"), maximum(value = "86400")))]
    #[serde(skip_serializing_if = "Option::is_none")]
    max_delay_seconds: Option<f64>,
    /// Whether each wait is a random part of what the back-off says; exponential ones are, unless said otherwise.
    jitter: Option<bool>,
    /// Only errors of these classes are tried again; all but `permanent` unless said otherwise.
    on: Option<Vec<ErrorClassView>>,
}

impl From<&RetryPolicy> for RetryView {
    fn from(policy: &RetryPolicy) -> Self {
        let terms = RetryTerms::from(policy);
        let class = |class: domain::ErrorClass| match class {
            domain::ErrorClass::Transient => ErrorClassView::Transient,
            domain::ErrorClass::RateLimited => ErrorClassView::RateLimited,
            domain::ErrorClass::Permanent => ErrorClassView::Permanent,
            domain::ErrorClass::TimedOut => ErrorClassView::TimedOut,
            domain::ErrorClass::Panicked => ErrorClassView::Panicked,
        };
        let retried = domain::ErrorClass::ALL.into_iter().filter(|class| policy.retries(*class));
        Self {
            backoff: Some(match policy.backoff {
                domain::Backoff::Fixed(_) => BackoffView::Fixed,
                domain::Backoff::Exponential { .. } => BackoffView::Exponential,
            }),
            delay_seconds: terms.delay_seconds,
            max_delay_seconds: terms.max_delay_seconds,
            jitter: terms.jitter,
            on: Some(retried.map(class).collect()),
        }
    }
}

//! Why an attempt did not succeed, in words for people and a class for the retry policy.

use std::time::Duration;

/// What kind of error ended an attempt. The retry policy decides by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ErrorClass {
    /// The network, a busy or broken server: another try may well succeed.
    Transient,
    /// The provider's rate limit: wait, and charge the task nothing.
    RateLimited,
    /// The input or the answer is at fault: another try ends the same way.
    Permanent,
    /// The soft or hard time limit passed.
    TimedOut,
    /// The handler panicked.
    Panicked,
}

impl ErrorClass {
    /// Every class, for tables.
    pub const ALL: [Self; 5] =
        [Self::Transient, Self::RateLimited, Self::Permanent, Self::TimedOut, Self::Panicked];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Transient => "transient",
            Self::RateLimited => "rate_limited",
            Self::Permanent => "permanent",
            Self::TimedOut => "timed_out",
            Self::Panicked => "panicked",
        }
    }
}

/// One attempt's error.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Failure {
    /// A stable identifier for programs, such as `division_by_zero` or `poison`.
    pub code: String,
    /// What happened, with which value, and what to do; causes follow after ": ".
    pub message: String,
    /// Decides about another try.
    #[serde(skip, default = "permanent")]
    pub class: ErrorClass,
    /// How long the other side asked us to wait; wins over the back-off.
    #[serde(skip)]
    pub retry_after: Option<Duration>,
}

fn permanent() -> ErrorClass {
    ErrorClass::Permanent
}

impl Failure {
    /// Longer messages are cut.
    pub const MAX_MESSAGE: usize = 4_000;

    /// Cuts the message to its limit and drops U+0000.
    pub fn new(class: ErrorClass, code: impl Into<String>, message: impl AsRef<str>) -> Self {
        let message = message.as_ref().chars().filter(|c| *c != '\0').take(Self::MAX_MESSAGE).collect();
        Self { code: code.into(), message, class, retry_after: None }
    }

    /// An error that no retry mends.
    pub fn permanent(code: impl Into<String>, message: impl AsRef<str>) -> Self {
        Self::new(ErrorClass::Permanent, code, message)
    }

    /// An error that another try may not meet.
    pub fn transient(code: impl Into<String>, message: impl AsRef<str>) -> Self {
        Self::new(ErrorClass::Transient, code, message)
    }

    /// Adds the wait that the other side asked for.
    pub fn retry_after(mut self, wait: Option<Duration>) -> Self {
        self.retry_after = wait;
        self
    }
}

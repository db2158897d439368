//! What an unsuccessful call means: whether it may be made again, and when.

use std::time::Duration;

use crate::{ErrorClass, TaskId};

/// How far an unsuccessful call came. This decides whether making it again could publish something twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missed {
    /// The rules or a limit of ours kept it back: making it again ends the same way.
    KeptBack,
    /// No connection came about: name, TCP or TLS failed. Not a byte of the request left.
    NothingSent,
    /// The request went out, at least in part, and no answer came: the receiver may have acted on it.
    MaybeSent,
    /// The receiver answered with a status that is no success.
    Refused(u16),
}

/// Which unsuccessful calls are made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryMode {
    /// Only those of which nothing was sent: publishing twice is worse than not at all.
    #[default]
    Unsent,
    /// All that another try may mend; receivers tell repeats by `webhook-id`.
    Always,
}

impl Missed {
    /// The end of its error's code, such as `publish.maybe_sent`.
    pub fn code(self) -> &'static str {
        match self {
            Self::KeptBack => "kept_back",
            Self::NothingSent => "not_sent",
            Self::MaybeSent => "maybe_sent",
            Self::Refused(_) => "refused",
        }
    }

    /// Whether another try is made: [`ErrorClass::Transient`], or for a person to decide: [`ErrorClass::Permanent`].
    /// A receiver that is gone (410) wants no more, whatever the mode; Standard Webhooks says so.
    pub fn class(self, mode: RetryMode) -> ErrorClass {
        match (self, mode) {
            (Self::KeptBack | Self::Refused(410), _) => ErrorClass::Permanent,
            (Self::NothingSent, _) | (Self::MaybeSent | Self::Refused(_), RetryMode::Always) => {
                ErrorClass::Transient
            }
            (Self::MaybeSent | Self::Refused(_), RetryMode::Unsent) => ErrorClass::Permanent,
        }
    }
}

/// How often a completion webhook is tried before it waits for a person.
pub const WEBHOOK_ATTEMPTS: u32 = 10;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;
/// The waits that Standard Webhooks recommends, in seconds.
const SCHEDULE: [u64; 9] =
    [5, 5 * MINUTE, 30 * MINUTE, 2 * HOUR, 5 * HOUR, 10 * HOUR, 14 * HOUR, 20 * HOUR, 24 * HOUR];

/// How long to wait after the `failures`-th unsuccessful try (from 1) of a completion webhook; at least as long as the receiver asked.
/// The task's number spreads the waits by up to a tenth, so that what failed together does not come back together.
pub fn webhook_wait(task: TaskId, failures: u32, asked: Option<Duration>) -> Duration {
    let step = usize::try_from(failures.saturating_sub(1)).unwrap_or(usize::MAX).min(SCHEDULE.len() - 1);
    // Knuth's multiplicative hash: neighbours get far apart.
    let spread = (task.0 as u32).wrapping_mul(2_654_435_761) >> 16;
    let wait = Duration::from_secs(SCHEDULE[step]).mul_f64(1.0 - 0.1 * f64::from(spread) / 65_536.0);
    asked.map_or(wait, |asked| asked.max(wait))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_default_only_what_was_not_sent_is_sent_again() {
        use ErrorClass::{Permanent, Transient};
        for (missed, code, unsent, always) in [
            (Missed::KeptBack, "kept_back", Permanent, Permanent),
            (Missed::NothingSent, "not_sent", Transient, Transient),
            (Missed::MaybeSent, "maybe_sent", Permanent, Transient),
            (Missed::Refused(302), "refused", Permanent, Transient),
            (Missed::Refused(400), "refused", Permanent, Transient),
            (Missed::Refused(410), "refused", Permanent, Permanent),
            (Missed::Refused(429), "refused", Permanent, Transient),
            (Missed::Refused(503), "refused", Permanent, Transient),
        ] {
            assert_eq!(missed.code(), code);
            assert_eq!(missed.class(RetryMode::Unsent), unsent, "{missed:?}");
            assert_eq!(missed.class(RetryMode::Always), always, "{missed:?}");
        }
        assert_eq!(RetryMode::default(), RetryMode::Unsent);
    }

    #[test]
    fn webhooks_wait_as_standard_webhooks_recommends() {
        for id in [1, 2, 77, 1_000_003] {
            for (attempt, seconds) in
                [(1, 5), (2, 300), (3, 1800), (4, 7200), (5, 18_000), (9, 86_400), (10, 86_400), (99, 86_400)]
            {
                let wait = webhook_wait(TaskId(id), attempt, None).as_secs_f64();
                let most = f64::from(seconds);
                assert!(wait <= most && wait >= most * 0.9, "attempt {attempt} of {id}: {wait}");
            }
        }
        assert_ne!(webhook_wait(TaskId(1), 3, None), webhook_wait(TaskId(2), 3, None), "they spread");
        let hour = Duration::from_secs(3600);
        assert_eq!(webhook_wait(TaskId(1), 1, Some(hour)), hour, "the receiver may ask for longer");
        assert!(webhook_wait(TaskId(1), 4, Some(hour)) > hour, "and not for shorter");
        assert_eq!(WEBHOOK_ATTEMPTS as usize, SCHEDULE.len() + 1);
    }
}

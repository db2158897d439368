//! Submitting once: idempotency keys, for callers that have to ask again, and unique tasks, for callers that do not know
//! of each other.

use std::time::Duration;

use crate::{Status, Timestamp, name::name};

name!(
    /// What a caller calls one request, so that asking again is safe: 1–255 printable ASCII characters, no spaces.
    IdempotencyKey, "idempotency key", max 255, |c| c.is_ascii_graphic(),
    "1 to 255 printable ASCII characters without spaces"
);
name!(
    /// What tasks must not share: 1–255 bytes without control characters.
    UniqueKey, "unique key", max 255, |c| !c.is_control(), "1 to 255 bytes without control characters"
);

/// A request that is answered once: the same key with the same fingerprint gets the first answer again, with another
/// fingerprint a refusal. Keys belong to their tenant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The caller's name for the request.
    pub key: IdempotencyKey,
    /// Tells one request from another: a SHA-256 of the operation and its body.
    pub fingerprint: [u8; 32],
}

impl Idempotency {
    /// How long a key is remembered after its first use.
    pub const KEPT: Duration = Duration::from_secs(24 * 3600);
}

/// A task that must not exist twice: a submission that finds another one is answered with that one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Unique {
    /// What both would share. Keys belong to their tenant.
    pub key: UniqueKey,
    /// Only tasks that stand here count; not empty.
    pub among: Vec<Status>,
    /// Only tasks that were submitted at most this long ago count; `None` for all.
    pub window: Option<Duration>,
}

impl Unique {
    /// Where tasks stand that have not ended: what counts unless the caller says otherwise.
    pub const UNFINISHED: [Status; 3] = [Status::Scheduled, Status::Pending, Status::Processing];
    /// The longest window that can be asked for: a year.
    pub const LONGEST_WINDOW: Duration = Duration::from_secs(366 * 24 * 3600);

    /// Whether a task with this key stands in the way of another one.
    pub fn is_met_by(&self, status: Status, created_at: Timestamp, now: Timestamp) -> bool {
        let recent = |window| (now - created_at).to_std().map_or(true, |age| age <= window);
        self.among.contains(&status) && self.window.is_none_or(recent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_or_is_old_stands_in_nobodys_way() {
        let start = Timestamp::from_timestamp(1_800_000_000, 0).expect("a moment");
        let unique = |window| Unique {
            key: UniqueKey::new("report 2026-11").expect("a valid key"),
            among: Unique::UNFINISHED.to_vec(),
            window,
        };
        let minute = Duration::from_secs(60);
        for (status, age, window, met) in [
            (Status::Pending, minute * 9, None, true),
            (Status::Processing, minute, Some(minute), true),
            (Status::Processing, minute * 2, Some(minute), false),
            (Status::Completed, minute, None, false),
            (Status::Failed, Duration::ZERO, Some(minute), false),
        ] {
            assert_eq!(unique(window).is_met_by(status, start, start + age), met, "{status:?} {age:?}");
        }
        assert!(
            unique(Some(minute)).is_met_by(Status::Pending, start + minute, start),
            "a clock that went back"
        );
    }
}

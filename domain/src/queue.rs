//! Queues: who serves them, and what can be done with what waits there.

use std::time::Duration;

use crate::{
    Change, Counters, Event, Failure, LimitOverrides, QueueName, RateLimit, Refusal, RetryPolicy, State,
    Timestamp, decide,
};

/// What the configuration says of one queue.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct QueueSettings {
    /// What passes through it at most, over all workers.
    pub limits: QueueLimits,
    /// Defaults for its tasks, above those of their types.
    pub defaults: LimitOverrides,
    /// When and whether their failures are tried again, above what their types say.
    pub retry: Option<RetryPolicy>,
    /// How long a task waits until it becomes one step more urgent ([`crate::Priority::aged`]); `None` for never.
    pub ageing: Option<Duration>,
    /// Whether tenants and keys take turns ([`crate::fair`]).
    pub fair: bool,
}

/// How much of a queue may run, over all workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueLimits {
    /// Tasks at once.
    pub max_running: Option<u32>,
    /// Tasks started in a time.
    pub rate: Option<RateLimit>,
}

/// How many more tasks of a queue may be started now, and when to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// So many.
    pub tasks: usize,
    /// Where there is none: how long until the rate lets one through; `None` when a task has to end first.
    pub wait: Option<Duration>,
}

impl QueueLimits {
    /// Whether they limit nothing.
    pub fn are_none(&self) -> bool {
        *self == Self::default()
    }

    /// The room for more while so many run; `arrival` is the state of the rate, see [`RateLimit::permits`].
    pub fn room(&self, running: u64, arrival: Option<Timestamp>, now: Timestamp) -> Room {
        let slots = self.max_running.map_or(u64::MAX, |most| u64::from(most).saturating_sub(running));
        let permits = self.rate.map_or(u64::MAX, |rate| rate.permits(arrival, now).into());
        let tasks = usize::try_from(slots.min(permits)).unwrap_or(usize::MAX);
        let wait = self.rate.filter(|_| slots > 0).map(|rate| rate.wait(arrival, now));
        Room { tasks, wait: if tasks > 0 { Some(Duration::ZERO) } else { wait } }
    }
}

/// Which queues a worker serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Service {
    /// Only these; empty means every queue, also later ones.
    pub only: Vec<QueueName>,
    /// None of these, whatever else.
    pub except: Vec<QueueName>,
}

impl Service {
    /// Whether tasks of this queue are taken.
    pub fn covers(&self, queue: &QueueName) -> bool {
        (self.only.is_empty() || self.only.contains(queue)) && !self.except.contains(queue)
    }
}

/// What a purge of its queue does to a task: one that waits ends as CANCELLED and says why; any other stays.
pub fn purge(state: State, counters: Counters) -> Option<Change> {
    match decide(state, counters, Event::Cancel) {
        Ok(Change::Finish { end, counters, error: None }) => {
            let error = Some(Failure::permanent("purged", "its queue was purged while it waited there"));
            Some(Change::Finish { end, counters, error })
        }
        _ => None,
    }
}

/// Whether a task may change its priority: only while it waits.
pub fn may_change_priority(state: State) -> Result<(), Refusal> {
    match state {
        State::Scheduled | State::Pending => Ok(()),
        State::Processing { .. } => Err(Refusal::Processing),
        State::Ended(_) => Err(Refusal::Ended),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::End;

    fn queues(names: &[&str]) -> Vec<QueueName> {
        names.iter().map(|name| QueueName::new(*name).expect("a valid name")).collect()
    }

    #[test]
    fn dedicated_workers_serve_what_they_were_given_and_nothing_that_is_excluded() {
        for (only, except, covered) in [
            (&[][..], &[][..], &["a", "b", "c"][..]),
            (&["a", "b"], &[], &["a", "b"]),
            (&[], &["a"], &["b", "c"]),
            (&["a", "b"], &["b"], &["a"]),
        ] {
            let service = Service { only: queues(only), except: queues(except) };
            let all = queues(&["a", "b", "c"]);
            let found: Vec<_> = all.into_iter().filter(|queue| service.covers(queue)).collect();
            assert_eq!(found, queues(covered));
        }
    }

    #[test]
    fn a_queue_has_room_for_what_both_its_limits_let_through() {
        let now = Timestamp::UNIX_EPOCH;
        let rate: RateLimit = "2/s".parse().expect("a rate");
        let empty = Some(rate.arrival_after(None, now, 2));
        let half_a_second = Some(Duration::from_millis(500));
        for (max_running, rate, running, arrival, tasks, wait) in [
            (None, None, 1_000, None, usize::MAX, Some(Duration::ZERO)),
            (Some(3), None, 1, None, 2, Some(Duration::ZERO)),
            (Some(3), None, 3, None, 0, None),
            (Some(3), None, 9, None, 0, None),
            (None, Some(rate), 9, None, 2, Some(Duration::ZERO)),
            (None, Some(rate), 9, empty, 0, half_a_second),
            (Some(3), Some(rate), 2, None, 1, Some(Duration::ZERO)),
            (Some(3), Some(rate), 2, empty, 0, half_a_second),
            (Some(3), Some(rate), 3, empty, 0, None),
        ] {
            let room = QueueLimits { max_running, rate }.room(running, arrival, now);
            assert_eq!(room, Room { tasks, wait }, "{max_running:?} {rate:?} while {running} run");
        }
    }

    const STATES: [State; 5] = [
        State::Scheduled,
        State::Pending,
        State::Processing { cancel_requested: false },
        State::Processing { cancel_requested: true },
        State::Ended(End::Completed),
    ];

    #[test]
    fn a_purge_ends_what_waits_and_says_so_and_leaves_the_rest() {
        for state in STATES {
            let waits = matches!(state, State::Scheduled | State::Pending);
            match purge(state, Counters::default()) {
                Some(Change::Finish { end: End::Cancelled, error: Some(error), .. }) => {
                    assert!(waits, "{state:?}");
                    assert_eq!(error.code, "purged");
                }
                None => assert!(!waits, "{state:?}"),
                Some(other) => panic!("{state:?} becomes {other:?}"),
            }
        }
    }

    #[test]
    fn only_what_waits_may_change_its_priority() {
        let allowed = STATES.map(may_change_priority);
        assert_eq!(
            allowed,
            [Ok(()), Ok(()), Err(Refusal::Processing), Err(Refusal::Processing), Err(Refusal::Ended)]
        );
    }
}

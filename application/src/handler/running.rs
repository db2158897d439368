//! What a running attempt's handler, its worker and its reports share: one allocation, for thousands run at once.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU8, Ordering},
};

use domain::{Counters, Limits, Rank, RetryPolicy, WorkerId};
use tokio::sync::Notify;

use super::{account::Account, context::TaskInfo, recorder::Recorder};

/// Why a running handler is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Somebody cancelled the task.
    Cancel,
    /// The worker drains and its grace time is over.
    Release,
    /// The lease is lost: others may have taken over already.
    Abandon,
}

impl Stop {
    const NOT_ASKED: u8 = 0;

    fn code(self) -> u8 {
        match self {
            Self::Cancel => 1,
            Self::Release => 2,
            Self::Abandon => 3,
        }
    }

    fn of(code: u8) -> Option<Self> {
        [Self::Cancel, Self::Release, Self::Abandon].into_iter().find(|stop| stop.code() == code)
    }
}

/// What an attempt may use up, and what its task had used up when it began.
#[derive(Debug)]
pub(crate) struct Terms {
    pub(crate) limits: Limits,
    /// The task's own policy, where it has one.
    pub(crate) retry: Option<Box<RetryPolicy>>,
    pub(crate) counters: Counters,
    /// Where it waits if it has to wait again.
    pub(crate) rank: Rank,
}

/// One attempt, from its claim to its end.
#[derive(Debug)]
pub(crate) struct RunningAttempt {
    pub(crate) info: TaskInfo,
    pub(crate) terms: Terms,
    /// Under whose lease it was claimed; the process may have registered anew since.
    pub(crate) worker: WorkerId,
    pub(crate) recorder: Arc<Recorder>,
    stop: AtomicU8,
    stop_told: Notify,
    soft_limit: AtomicBool,
    soft_limit_told: Notify,
    /// Nobody wants anything more of its handler.
    over: AtomicBool,
    /// It has reported something.
    reported: AtomicBool,
    /// What it has used so far.
    pub(crate) account: Account,
}

impl RunningAttempt {
    pub(crate) fn new(info: TaskInfo, terms: Terms, worker: WorkerId, recorder: Arc<Recorder>) -> Self {
        Self {
            info,
            terms,
            worker,
            recorder,
            stop: AtomicU8::new(Stop::NOT_ASKED),
            stop_told: Notify::new(),
            soft_limit: AtomicBool::new(false),
            soft_limit_told: Notify::new(),
            over: AtomicBool::new(false),
            reported: AtomicBool::new(false),
            account: Account::default(),
        }
    }

    /// Has the handler dropped. The first reason counts; only a cancellation takes the place of another.
    pub(crate) fn stop(&self, reason: Stop) {
        let asked = if reason == Stop::Cancel {
            self.stop.swap(reason.code(), Ordering::AcqRel) != reason.code()
        } else {
            let (none, now) = (Stop::NOT_ASKED, reason.code());
            self.stop.compare_exchange(none, now, Ordering::AcqRel, Ordering::Acquire).is_ok()
        };
        if asked {
            self.stop_told.notify_waiters();
        }
    }

    /// Whether the handler is to be dropped.
    pub(crate) fn asked_to_stop(&self) -> Option<Stop> {
        Stop::of(self.stop.load(Ordering::Acquire))
    }

    /// Resolves when the handler is to be dropped.
    pub(crate) async fn stopped(&self) -> Stop {
        loop {
            let notified = self.stop_told.notified();
            tokio::pin!(notified);
            // Listen before looking.
            notified.as_mut().enable();
            if let Some(stop) = self.asked_to_stop() {
                return stop;
            }
            notified.await;
        }
    }

    /// Asks the handler to return what it has.
    pub(crate) fn pass_soft_limit(&self) {
        self.soft_limit.store(true, Ordering::Release);
        self.soft_limit_told.notify_waiters();
    }

    pub(crate) async fn soft_limit_passed(&self) {
        loop {
            let notified = self.soft_limit_told.notified();
            tokio::pin!(notified);
            notified.as_mut().enable();
            if self.soft_limit.load(Ordering::Acquire) {
                return;
            }
            notified.await;
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    /// The handler is gone, or nobody waits for it any more. Whoever reports after that is not heard.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    /// Whether a report may be taken; from then on the attempt [has reported](Self::has_reported). Each side of
    /// [`Self::end`] writes before it reads, so that no report slips in behind an end that has not seen it.
    pub(super) fn may_report(&self) -> bool {
        self.reported.store(true, Ordering::SeqCst);
        !self.is_over()
    }

    pub(super) fn has_reported(&self) -> bool {
        self.reported.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use domain::{Priority, QueueName, TaskId, TaskType, Tenant, Timestamp, WorkerName};
    use futures_util::FutureExt;

    use super::*;

    fn attempt() -> RunningAttempt {
        let info = TaskInfo {
            id: TaskId(1),
            tenant: Tenant::default(),
            task_type: TaskType::new("demo.noop").expect("a type"),
            queue: QueueName::default_queue(),
            priority: Priority::default(),
            fairness_key: None,
            attempt: 1,
            failures: 0,
            created_at: Timestamp::UNIX_EPOCH,
            started_at: Timestamp::UNIX_EPOCH,
            worker: WorkerName::new("test@host").expect("a name"),
        };
        let terms =
            Terms { limits: Limits::default(), retry: None, counters: Counters::default(), rank: Rank(1) };
        RunningAttempt::new(info, terms, WorkerId(1), Arc::default())
    }

    #[test]
    fn the_first_reason_to_stop_counts_unless_somebody_cancels() {
        for (asked, expected) in [
            (&[][..], None),
            (&[Stop::Release, Stop::Abandon], Some(Stop::Release)),
            (&[Stop::Abandon, Stop::Release], Some(Stop::Abandon)),
            (&[Stop::Release, Stop::Cancel, Stop::Abandon], Some(Stop::Cancel)),
        ] {
            let attempt = attempt();
            asked.iter().for_each(|stop| attempt.stop(*stop));
            assert_eq!(attempt.stopped().now_or_never(), expected, "{asked:?}");
        }
    }

    #[tokio::test]
    async fn who_waits_is_told() {
        let attempt = Arc::new(attempt());
        let (stopped, soft) = (Arc::clone(&attempt), Arc::clone(&attempt));
        let stopped = tokio::spawn(async move { stopped.stopped().await });
        let soft = tokio::spawn(async move { soft.soft_limit_passed().await });
        tokio::task::yield_now().await;
        assert!(!stopped.is_finished() && !soft.is_finished());
        attempt.pass_soft_limit();
        soft.await.expect("told");
        attempt.stop(Stop::Release);
        assert_eq!(stopped.await.expect("told"), Stop::Release);
    }
}

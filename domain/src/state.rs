//! The life of a task: one total function, [`decide`], says what each event does in each state.
//!
//! A decision is a value. A store applies it where the task still stands as the decision assumed (same attempt, same
//! worker), and answers "stale" where it does not.

use std::time::Duration;

use crate::{Failure, Limits, RetryPolicy, Suspicion};

/// Where a task stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// Waits for a moment: its `run_at`, or the end of a back-off.
    Scheduled,
    /// Waits for a worker.
    Pending,
    /// A worker holds it.
    Processing {
        /// Someone asked to stop it; the worker has yet to do so.
        cancel_requested: bool,
    },
    /// It is over.
    Ended(End),
}

/// How a task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum End {
    /// With a result.
    Completed,
    /// With an error; it sits in manual handling.
    Failed,
    /// Someone stopped it.
    Cancelled,
    /// Its `expires_at` passed before a worker took it.
    Expired,
}

/// What may happen to a task.
#[derive(Debug, Clone)]
pub enum Event<'a> {
    /// The moment it waited for has come.
    Due,
    /// A worker takes it.
    Claim,
    /// The handler returned a result.
    Succeed,
    /// The handler returned an error, panicked or ran out of time.
    Fail {
        /// What went wrong.
        failure: &'a Failure,
        /// The task type's policy.
        policy: &'a RetryPolicy,
        /// The task's own limits.
        limits: &'a Limits,
        /// A uniform number in `[0, 1)` that spreads the back-off.
        chance: f64,
    },
    /// The worker gives it back unfinished because it drains.
    Release,
    /// The worker gives it back unstarted because tasks of its type start at a pace there.
    PutOff {
        /// How long it is to wait.
        after: Duration,
    },
    /// The worker that held it is gone.
    LoseWorker {
        /// Whether the crash is charged to this task: see [`crate::Suspicion`].
        charged: bool,
    },
    /// Someone asks to stop it.
    Cancel,
    /// The handler stopped because it was asked to.
    StopCancelled,
    /// Its `expires_at` has passed.
    Expire,
    /// One that it waits for did not complete, and it cannot do without.
    GiveUp {
        /// Which, and how that ended.
        failure: &'a Failure,
    },
    /// Nothing is left to wait for, and it ends without a worker: a batch whose items have ended, or a task whose input
    /// cannot be put together.
    Conclude {
        /// What was wrong, if anything.
        failure: Option<&'a Failure>,
    },
    /// Someone asks to run an ended task again.
    Retry,
}

/// How often a task was taken and how it fared. None of these numbers ever falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Claims so far: the fence of every write of a running attempt, and what clients see.
    pub attempt: u32,
    /// Attempts that failed by themselves; bounded by the task's `max_attempts`.
    pub failures: u32,
    /// Crashes of workers that were charged to it; bounded by [`Counters::CRASH_LIMIT`].
    pub crashes: u32,
    /// `failures` when a person last asked for another run: the budget starts anew there.
    pub forgiven_failures: u32,
    /// `crashes` when a person last asked for another run.
    pub forgiven_crashes: u32,
}

impl Counters {
    /// A task that is charged with this many crashes is taken for their cause.
    pub const CRASH_LIMIT: u32 = 3;

    /// Failures that count against the budget.
    pub fn fresh_failures(self) -> u32 {
        self.failures.saturating_sub(self.forgiven_failures)
    }

    /// Crashes that count against the limit.
    pub fn fresh_crashes(self) -> u32 {
        self.crashes.saturating_sub(self.forgiven_crashes)
    }

    /// How likely it is that this task kills its worker.
    pub fn suspicion(self) -> Suspicion {
        Suspicion::after(self.fresh_crashes())
    }

    /// As they stand when a person asks for another run: nothing falls, and both budgets start anew.
    fn forgiven(self) -> Self {
        Self { forgiven_failures: self.failures, forgiven_crashes: self.crashes, ..self }
    }
}

/// What a decision asks of the store.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Due: it waits for a worker now.
    BecomePending,
    /// Taken: `attempt` rises by one.
    Start,
    /// Over, with an outcome that stays.
    Finish {
        /// How.
        end: End,
        /// The counters after this.
        counters: Counters,
        /// Why, unless it completed.
        error: Option<Failure>,
    },
    /// Back among the waiting.
    Wait {
        /// How long from now by the store's clock; zero means at once.
        after: Duration,
        /// The counters after this.
        counters: Counters,
        /// How the attempt went, for the history.
        outcome: AttemptOutcome,
        /// What was wrong with it, if anything.
        error: Option<Failure>,
    },
    /// A note to the worker that holds it.
    RequestCancel,
    /// Brought back from its end: it waits for a worker, and its budgets start anew.
    Reopen {
        /// The counters after this.
        counters: Counters,
    },
}

/// How one attempt went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptOutcome {
    /// It returned a result.
    Completed,
    /// It returned an error or panicked.
    Failed,
    /// It was stopped on request.
    Cancelled,
    /// It ran into a time limit.
    TimedOut,
    /// Its worker died.
    Crashed,
    /// Its worker gave it back.
    Released,
}

/// Why an event does nothing in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is over, and the event is for tasks that are not.
    #[error("the task has already ended")]
    Ended,
    /// A worker holds it, and the event is for tasks that nobody holds.
    #[error("the task is being processed")]
    Processing,
    /// Nobody holds it, and the event comes from a worker.
    #[error("the task is not being processed")]
    NotProcessing,
    /// It is not due yet.
    #[error("the task is scheduled for later")]
    NotDue,
    /// It is due already.
    #[error("the task is already waiting for a worker")]
    AlreadyPending,
    /// Only tasks that ended can be run again.
    #[error("the task has not ended")]
    NotEnded,
    /// It succeeded; there is nothing to run again.
    #[error("the task has completed")]
    Completed,
    /// Nobody asked to stop it.
    #[error("no cancellation was requested")]
    CancelNotRequested,
}

/// What `event` does to a task in `state`.
pub fn decide(state: State, counters: Counters, event: Event<'_>) -> Result<Change, Refusal> {
    match state {
        State::Scheduled => match event {
            Event::Due => Ok(Change::BecomePending),
            Event::Claim => Err(Refusal::NotDue),
            Event::Cancel => Ok(finish(End::Cancelled, counters, None)),
            Event::Expire => Ok(finish(End::Expired, counters, Some(expired()))),
            Event::GiveUp { failure } => Ok(finish(End::Cancelled, counters, Some(failure.clone()))),
            Event::Conclude { failure: None } => Ok(finish(End::Completed, counters, None)),
            Event::Conclude { failure } => Ok(finish(End::Failed, counters, failure.cloned())),
            Event::Retry => Err(Refusal::NotEnded),
            Event::Succeed
            | Event::Fail { .. }
            | Event::Release
            | Event::PutOff { .. }
            | Event::LoseWorker { .. }
            | Event::StopCancelled => Err(Refusal::NotProcessing),
        },
        State::Pending => match event {
            Event::Due | Event::GiveUp { .. } | Event::Conclude { .. } => Err(Refusal::AlreadyPending),
            Event::Claim => Ok(Change::Start),
            Event::Cancel => Ok(finish(End::Cancelled, counters, None)),
            Event::Expire => Ok(finish(End::Expired, counters, Some(expired()))),
            Event::Retry => Err(Refusal::NotEnded),
            Event::Succeed
            | Event::Fail { .. }
            | Event::Release
            | Event::PutOff { .. }
            | Event::LoseWorker { .. }
            | Event::StopCancelled => Err(Refusal::NotProcessing),
        },
        State::Processing { cancel_requested } => match event {
            Event::Due | Event::Claim | Event::Expire | Event::GiveUp { .. } | Event::Conclude { .. } => {
                Err(Refusal::Processing)
            }
            Event::Retry => Err(Refusal::NotEnded),
            // The work is done and paid for: a cancellation that came too late does not throw it away.
            Event::Succeed => Ok(finish(End::Completed, counters, None)),
            Event::Fail { failure, policy, limits, chance } => Ok(if cancel_requested {
                cancelled(counters)
            } else {
                fail(counters, failure, policy, limits, chance)
            }),
            Event::Release => Ok(release(cancel_requested, counters, Duration::ZERO)),
            Event::PutOff { after } => Ok(release(cancel_requested, counters, after)),
            Event::LoseWorker { charged } => {
                Ok(if cancel_requested { cancelled(counters) } else { lose_worker(counters, charged) })
            }
            Event::Cancel => Ok(Change::RequestCancel),
            Event::StopCancelled if cancel_requested => Ok(cancelled(counters)),
            Event::StopCancelled => Err(Refusal::CancelNotRequested),
        },
        State::Ended(end) => match event {
            Event::Retry => match end {
                End::Completed => Err(Refusal::Completed),
                End::Failed | End::Cancelled | End::Expired => {
                    Ok(Change::Reopen { counters: counters.forgiven() })
                }
            },
            Event::Due
            | Event::Claim
            | Event::Succeed
            | Event::Fail { .. }
            | Event::Release
            | Event::PutOff { .. }
            | Event::LoseWorker { .. }
            | Event::Cancel
            | Event::StopCancelled
            | Event::GiveUp { .. }
            | Event::Conclude { .. }
            | Event::Expire => Err(Refusal::Ended),
        },
    }
}

fn finish(end: End, counters: Counters, error: Option<Failure>) -> Change {
    Change::Finish { end, counters, error }
}

fn cancelled(counters: Counters) -> Change {
    finish(End::Cancelled, counters, None)
}

fn expired() -> Failure {
    Failure::permanent("expired", "expires_at passed before a worker was free to run the task")
}

fn fail(counters: Counters, failure: &Failure, policy: &RetryPolicy, limits: &Limits, chance: f64) -> Change {
    let outcome = match failure.class {
        crate::ErrorClass::TimedOut => AttemptOutcome::TimedOut,
        // A rate limit is the provider's state, not the task's fault: no failure is charged.
        crate::ErrorClass::RateLimited if policy.retries(failure.class) => {
            let after = policy.wait(failure, counters.fresh_failures() + 1, chance);
            let (outcome, error) = (AttemptOutcome::Released, Some(failure.clone()));
            return Change::Wait { after, counters, outcome, error };
        }
        crate::ErrorClass::Transient
        | crate::ErrorClass::RateLimited
        | crate::ErrorClass::Permanent
        | crate::ErrorClass::Panicked => AttemptOutcome::Failed,
    };
    let counters = Counters { failures: counters.failures.saturating_add(1), ..counters };
    let error = Some(failure.clone());
    if !policy.retries(failure.class) || counters.fresh_failures() >= limits.max_attempts {
        return finish(End::Failed, counters, error);
    }
    let after = policy.wait(failure, counters.fresh_failures(), chance);
    Change::Wait { after, counters, outcome, error }
}

fn release(cancel_requested: bool, counters: Counters, after: Duration) -> Change {
    if cancel_requested {
        return cancelled(counters);
    }
    Change::Wait { after, counters, outcome: AttemptOutcome::Released, error: None }
}

fn lose_worker(counters: Counters, charged: bool) -> Change {
    let crashes = counters.crashes.saturating_add(u32::from(charged));
    let counters = Counters { crashes, ..counters };
    if charged && counters.fresh_crashes() >= Counters::CRASH_LIMIT {
        let message = format!(
            "the worker process died {} times while it ran this task, which is taken for the cause",
            counters.fresh_crashes()
        );
        return finish(End::Failed, counters, Some(Failure::permanent("poison", message)));
    }
    let error =
        Failure::transient("worker_lost", "the worker process died or lost its lease while it ran this task");
    let outcome = AttemptOutcome::Crashed;
    Change::Wait { after: Duration::ZERO, counters, outcome, error: Some(error) }
}

impl Change {
    /// How the attempt went that this change ends; `None` for changes that end none.
    pub fn attempt_outcome(&self) -> Option<AttemptOutcome> {
        match self {
            Self::BecomePending | Self::Start | Self::RequestCancel | Self::Reopen { .. } => None,
            Self::Wait { outcome, .. } => Some(*outcome),
            Self::Finish { end, error, .. } => match end {
                End::Completed => Some(AttemptOutcome::Completed),
                End::Cancelled => Some(AttemptOutcome::Cancelled),
                End::Expired => None,
                End::Failed => Some(match error {
                    Some(failure) if failure.code == "poison" => AttemptOutcome::Crashed,
                    Some(failure) if failure.class == crate::ErrorClass::TimedOut => AttemptOutcome::TimedOut,
                    Some(_) | None => AttemptOutcome::Failed,
                }),
            },
        }
    }
}

impl AttemptOutcome {
    /// Every outcome, for tables and codecs.
    pub const ALL: [Self; 6] =
        [Self::Completed, Self::Failed, Self::Cancelled, Self::TimedOut, Self::Crashed, Self::Released];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "COMPLETED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
            Self::TimedOut => "TIMED_OUT",
            Self::Crashed => "CRASHED",
            Self::Released => "RELEASED",
        }
    }
}

#[cfg(test)]
mod tests;

//! The rules of the task runner, and nothing else.
//!
//! **Architecture invariant:** this crate performs no IO and reads neither clock nor randomness. Time, chance and ids
//! are arguments; decisions are returned as values, which a store applies where the expected state still holds.
//!
//! Start with [`state`]: one total function says what may happen to a task. [`task`] holds what is submitted and what
//! is read back. The other modules are the rules those two lean on.

pub mod ai;
pub mod capacity;
pub mod defaults;
pub mod failure;
pub mod fair;
pub mod fleet;
pub mod flow;
pub mod json;
pub mod lease;
pub mod name;
pub mod once;
pub mod outbound;
pub mod pace;
pub mod priority;
pub mod progress;
pub mod queue;
pub mod rate;
pub mod retention;
pub mod retry;
pub mod routing;
pub mod runs;
pub mod schedule;
pub mod state;
pub mod suspicion;
pub mod task;
pub mod turns;
pub mod why;

pub use capacity::Slots;
pub use defaults::{Defaults, TypeRules};
pub use failure::{ErrorClass, Failure};
pub use fair::{FairnessKey, Lane, Rank, Share};
pub use fleet::{Command, Departure, Serving, WorkerMode, WorkerState};
pub use json::Json;
pub use lease::LeaseTerms;
pub use name::{InvalidName, QueueName, TaskType, Tenant, WorkerName};
pub use once::{Idempotency, IdempotencyKey, Unique, UniqueKey};
pub use pace::{Pace, Throttle};
pub use priority::Priority;
pub use progress::Progress;
pub use queue::{QueueLimits, QueueSettings, Service};
pub use rate::RateLimit;
pub use retention::{Retention, RetentionRules};
pub use retry::{Backoff, RetryPolicy, RetryTerms};
pub use routing::{Pattern, Route, Routes};
pub use runs::{RunLength, RunSummary, Runs};
pub use state::{AttemptOutcome, Change, Counters, End, Event, Refusal, State, decide};
pub use suspicion::Suspicion;
pub use task::{
    Attempt, LimitOverrides, Limits, NewTask, OwnTerms, Start, Status, Task, TaskId, TimeCaps, WorkerId,
};
pub use turns::{QueueOrder, Turns};

/// A moment in UTC. Values come from a store's clock; this crate never asks for "now".
pub type Timestamp = chrono::DateTime<chrono::Utc>;

/// A day in UTC.
pub type Day = chrono::NaiveDate;

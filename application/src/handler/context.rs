//! What a handler knows of its task, and how it reports.

use std::sync::Arc;

use domain::{
    FairnessKey, Priority, Progress, QueueName, TaskId, TaskType, Tenant, Timestamp, WorkerName,
    ai::{ModelCall, Payer},
};

use super::running::RunningAttempt;
use crate::ports::CallBook;

/// The task that a handler runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskInfo {
    /// Its number.
    pub id: TaskId,
    /// Whose it is.
    pub tenant: Tenant,
    /// Its type.
    pub task_type: TaskType,
    /// Where it waited.
    pub queue: QueueName,
    /// Its priority.
    pub priority: Priority,
    /// Whose share of a fair queue it takes.
    pub fairness_key: Option<FairnessKey>,
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// How many failed by themselves, since a person last asked for another run; crashes and drains do not count.
    pub failures: u32,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When this attempt started.
    pub started_at: Timestamp,
    /// Who runs it.
    pub worker: WorkerName,
}

/// A handler's link to the runner. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TaskContext(pub(crate) Arc<RunningAttempt>);

impl TaskContext {
    /// The task.
    pub fn task(&self) -> &TaskInfo {
        &self.0.info
    }

    /// Reports how far the work has come. Cheap: only the last report within some milliseconds travels on.
    pub fn progress(&self, current: u64, total: u64, message: Option<&str>) {
        self.0.recorder.progress(&self.0, Progress::new(current, total, message));
    }

    /// Adds to the live output. Pieces are joined for some milliseconds before they travel on.
    pub fn chunk(&self, text: &str) {
        self.0.recorder.chunk(&self.0, text);
    }

    /// Puts down what is known of the last call by now.
    pub fn update_call(&self, update: impl FnOnce(&mut ModelCall)) {
        self.0.account.update_last(update);
    }

    /// Resolves when the soft time limit has passed: return what there is, or an error.
    pub async fn soft_limit_passed(&self) {
        self.0.soft_limit_passed().await;
    }

    /// Whether nobody wants the result any more (cancelled, timed out, drained). Async handlers are simply dropped
    /// then; blocking ones should look here now and then.
    pub fn is_cancelled(&self) -> bool {
        self.0.is_over()
    }
}

/// What its calls of models used is kept with the attempt, however that ends.
impl CallBook for TaskContext {
    fn payer(&self) -> Payer {
        let TaskInfo { tenant, fairness_key, .. } = self.task();
        Payer { tenant: tenant.clone(), fairness_key: fairness_key.clone() }
    }

    fn enter(&self, call: ModelCall) {
        self.0.account.enter(call);
    }

    fn update_last(&self, update: &mut dyn FnMut(&mut ModelCall)) {
        self.0.account.update_last(update);
    }
}

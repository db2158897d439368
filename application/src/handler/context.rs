//! What a handler knows of its task, and how it reports.

use std::sync::Arc;

use domain::{Priority, Progress, QueueName, TaskId, TaskType, Tenant, Timestamp, WorkerName};
use tokio_util::sync::CancellationToken;

use super::recorder::Recorder;

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
    /// Which attempt this is, from 1.
    pub attempt: u32,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When this attempt started.
    pub started_at: Timestamp,
    /// Who runs it.
    pub worker: WorkerName,
}

/// A handler's link to the runner. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TaskContext {
    pub(crate) info: Arc<TaskInfo>,
    pub(crate) recorder: Arc<Recorder>,
    pub(crate) soft_limit: CancellationToken,
    pub(crate) gone: CancellationToken,
}

impl TaskContext {
    /// The task.
    pub fn task(&self) -> &TaskInfo {
        &self.info
    }

    /// Reports how far the work has come. Cheap: only the last report within some milliseconds travels on.
    pub fn progress(&self, current: u64, total: u64, message: Option<&str>) {
        self.recorder.progress(&self.info, Progress::new(current, total, message));
    }

    /// Adds to the live output. Pieces are joined for some milliseconds before they travel on.
    pub fn chunk(&self, text: &str) {
        self.recorder.chunk(&self.info, text);
    }

    /// Resolves when the soft time limit has passed: return what there is, or an error.
    pub async fn soft_limit_passed(&self) {
        self.soft_limit.cancelled().await;
    }

    /// Whether nobody wants the result any more (cancelled, timed out, drained). Async handlers are simply dropped
    /// then; blocking ones should look here now and then.
    pub fn is_cancelled(&self) -> bool {
        self.gone.is_cancelled()
    }
}

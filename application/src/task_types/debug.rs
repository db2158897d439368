//! `demo.debug`: the result is what the handler knows of its task.

use serde_json::json;

use crate::registry::{Output, TaskTypeSpec};

pub(super) fn spec() -> TaskTypeSpec {
    TaskTypeSpec::new(
        "demo.debug",
        "Completes with its own context: id, attempt, queue, worker and input.",
        |context, input: serde_json::Value| async move {
            let task = context.task();
            tracing::info!(task_id = task.id.0, attempt = task.attempt, ?task, "demo.debug");
            Output::of(&json!({
                "id": task.id.0,
                "type": task.task_type.as_str(),
                "queue": task.queue.as_str(),
                "priority": task.priority.get(),
                "attempt": task.attempt,
                "worker": task.worker.as_str(),
                "created_at": task.created_at,
                "started_at": task.started_at,
                "input": input,
            }))
        },
    )
}

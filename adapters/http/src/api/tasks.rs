//! Tasks.

use application::{
    ports::{CancelOutcome, DeleteOutcome, ListPage, Reprioritised, Retry, RetryOutcome, TaskFilter},
    tasks::{Admission, Tasks},
};
use domain::{QueueName, Task, TaskId, TaskType, Tenant};
use poem_openapi::{
    ApiResponse, OpenApi,
    param::{Header, Path, Query},
};

use super::{
    Context, Tag,
    parameters::{known_id, read_limit, read_name, read_statuses, read_wait},
};
use crate::{
    body::{JsonAnswer, JsonBody},
    events::{EventStream, event_stream, parse_event_id},
    idempotency,
    problem::{ApiError, FieldError},
    submission::{self, ChangeBody, SubmissionBody},
    sweep::{self, RetryBody, SweepBody},
    views::{
        AttemptListView, TaskListView, TaskProgressView, TaskStatusView, TaskView, manual::SweepView,
        why::WhyView,
    },
};

pub(crate) struct TasksApi(pub(crate) Context);

#[derive(ApiResponse)]
enum Submitted {
    /// Nothing was stored: this task, which has the same `unique_key`, stands in the way.
    #[oai(status = 200)]
    Existing(
        JsonAnswer<TaskView>,
        /// Where to read it.
        #[oai(header = "Location")]
        String,
    ),
    /// Stored; it will run.
    #[oai(status = 201)]
    Created(
        JsonAnswer<TaskView>,
        /// Where to read it.
        #[oai(header = "Location")]
        String,
        /// `true` where it was stored before, by a request with the same Idempotency-Key: its first answer.
        #[oai(header = "Idempotency-Replayed")]
        Option<bool>,
    ),
}

#[derive(ApiResponse)]
enum Cancelled {
    /// It was waiting and has ended as CANCELLED.
    #[oai(status = 200)]
    Ended(JsonAnswer<TaskView>),
    /// It runs; its worker stops it within about a second.
    #[oai(status = 202)]
    Requested(JsonAnswer<TaskView>),
}

#[derive(ApiResponse)]
enum Deleted {
    /// It is gone.
    #[oai(status = 204)]
    Gone,
}

#[OpenApi(tag = "Tag::Tasks")]
impl TasksApi {
    /// Submit a task
    ///
    /// Answers as soon as the task is stored; its work is not waited for.
    ///
    /// With an `Idempotency-Key` it is safe to ask again when an answer was lost: for 24 hours the same key with the same
    /// body, byte for byte, gets the first answer; with another body it is refused. With a `unique_key` there is at most
    /// one such task among those that stand in `unique_states`.
    ///
    /// With a `callback_url` the task's end is told to it.
    ///
    /// With `after` it starts when other tasks have ended, and `then` starts others after it. Its input can refer to what
    /// they came to: `{"$result": "name or number", "path": "/json/pointer"}`, or `{"$text": ["a text with ", {"$result": …}]}`.
    #[oai(path = "/tasks", method = "post", operation_id = "submit_task")]
    async fn submit(
        &self,
        body: JsonBody<SubmissionBody>,
        /// Your name for this request: 1 to 255 printable ASCII characters without spaces, such as a UUID.
        #[oai(name = "Idempotency-Key", validator(min_length = 1, max_length = 257))]
        idempotency_key: Header<Option<String>>,
    ) -> Result<Submitted, ApiError> {
        let (mut flow, callback) = submission::read(&body.text)?;
        flow.submission.idempotency =
            idempotency::read(idempotency_key.0.as_deref(), "submit_task", &body.text)?;
        let (tasks, tenant) = (self.0.tasks()?, Tenant::default());
        let admission = match callback {
            None => tasks.submit_flow(&tenant, flow).await?,
            Some(callback) => tasks.submit_with_callback(&tenant, flow, &callback).await?,
        };
        let location = |task: &Task| format!("{}/tasks/{}", self.0.config.prefix, task.id);
        match admission {
            Some(Admission::Created(task)) => {
                Ok(Submitted::Created(JsonAnswer(TaskView::from(&task)), location(&task), None))
            }
            Some(Admission::Replayed(task)) => {
                Ok(Submitted::Created(JsonAnswer(TaskView::from(&task)), location(&task), Some(true)))
            }
            Some(Admission::Existing(task)) => {
                Ok(Submitted::Existing(JsonAnswer(TaskView::from(&task)), location(&task)))
            }
            Some(Admission::KeyReused(id)) => {
                let message = format!(
                    "it was used for another request, which made task {id}; take a new key for a new request"
                );
                Err(ApiError::invalid(vec![FieldError::new(idempotency::HEADER, message)]))
            }
            None => Err(ApiError::bad_request("nothing was submitted")),
        }
    }

    /// List tasks, newest first
    #[oai(path = "/tasks", method = "get", operation_id = "list_tasks")]
    async fn list(
        &self,
        /// Only tasks that stand here; comma separated for several, in any case. `running` and `success` are read as
        /// PROCESSING and COMPLETED.
        status: Query<Option<String>>,
        /// Only tasks of this type.
        #[oai(name = "type")]
        task_type: Query<Option<String>>,
        /// Only tasks of this queue.
        queue: Query<Option<String>>,
        /// Only tasks that ended with an error of this code.
        #[oai(validator(max_length = 200))]
        error_code: Query<Option<String>>,
        /// How many at most: 1 to 500, 50 unless said otherwise.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<JsonAnswer<TaskListView>, ApiError> {
        let mut errors = Vec::new();
        let filter = TaskFilter {
            statuses: read_statuses(status.0.as_deref().unwrap_or_default(), &mut errors),
            task_type: read_name("type", task_type.0, TaskType::new, &mut errors),
            queue: read_name("queue", queue.0, QueueName::new, &mut errors),
            error_code: error_code.0,
            ended_before: None,
            batch: None,
        };
        let limit = read_limit(limit.0.as_deref(), &mut errors);
        let before = match cursor.0.as_deref() {
            None => None,
            Some(text) => {
                let id = text.parse::<i64>().ok().filter(|id| *id > 0);
                if id.is_none() {
                    errors.push(FieldError::new("cursor", "it is not a next_cursor of an earlier page"));
                }
                id.map(TaskId)
            }
        };
        if !errors.is_empty() {
            return Err(ApiError::invalid(errors));
        }
        let tasks = self.0.tasks()?.list(&Tenant::default(), &filter, ListPage { before, limit }).await?;
        let next_cursor = tasks.last().filter(|_| tasks.len() == limit).map(|task| task.id.to_string());
        Ok(JsonAnswer(TaskListView { items: tasks.iter().map(TaskView::from).collect(), next_cursor }))
    }

    /// Read a task
    #[oai(path = "/tasks/:id", method = "get", operation_id = "get_task")]
    async fn read(
        &self,
        /// The task's number.
        id: Path<i64>,
        /// Answer as soon as the task has ended, or after this long: `10s`, `500ms`, `1m`; at most a minute.
        #[oai(validator(pattern = r"^[0-9]+(\.[0-9]+)?(ms|s|m)?$"))]
        wait: Query<Option<String>>,
    ) -> Result<JsonAnswer<TaskView>, ApiError> {
        let patience = wait.0.as_deref().map(read_wait).transpose()?;
        let (tasks, tenant, task_id) = (self.0.tasks()?, Tenant::default(), known_id(id.0)?);
        let task = match patience {
            Some(patience) => {
                tokio::select! {
                    task = tasks.wait(&tenant, task_id, patience) => task?,
                    () = self.0.stopping.cancelled() => tasks.read(&tenant, task_id).await?,
                }
            }
            None => tasks.read(&tenant, task_id).await?,
        };
        let task = task.ok_or_else(|| ApiError::unknown_task(id.0))?;
        let partial = tasks.partial_text(&task).await?;
        Ok(JsonAnswer(TaskView::from(&task).with_partial(partial)))
    }

    /// Change a task that waits
    ///
    /// Gives it another priority, in the order as well. A task that runs or has ended is past that.
    #[oai(path = "/tasks/:id", method = "patch", operation_id = "change_task")]
    async fn change(
        &self,
        /// The task's number.
        id: Path<i64>,
        body: JsonBody<ChangeBody>,
    ) -> Result<JsonAnswer<TaskView>, ApiError> {
        let task = known_id(id.0)?;
        let priority = submission::read_change(&body.text)?;
        match self.0.tasks()?.reprioritise(&Tenant::default(), task, priority).await? {
            Reprioritised::Moved(_) | Reprioritised::Later => {
                Ok(JsonAnswer(TaskView::from(&self.known(id.0).await?)))
            }
            Reprioritised::NotWaiting(status) => {
                Err(ApiError::conflict(format!("task {} does not wait: it is {}", id.0, status.as_str())))
            }
            Reprioritised::Unknown => Err(ApiError::unknown_task(id.0)),
        }
    }

    /// Delete a task
    ///
    /// Removes it with its result and history. A running task has to be cancelled first.
    #[oai(path = "/tasks/:id", method = "delete", operation_id = "delete_task")]
    async fn delete(
        &self,
        /// The task's number.
        id: Path<i64>,
    ) -> Result<Deleted, ApiError> {
        match self.0.tasks()?.delete(&Tenant::default(), known_id(id.0)?).await? {
            DeleteOutcome::Deleted => Ok(Deleted::Gone),
            DeleteOutcome::Processing => {
                Err(ApiError::conflict(format!("task {} is being processed; cancel it first", id.0)))
            }
            DeleteOutcome::Unknown => Err(ApiError::unknown_task(id.0)),
        }
    }

    /// Where a task stands
    #[oai(path = "/tasks/:id/status", method = "get", operation_id = "get_task_status")]
    async fn status(
        &self,
        /// The task's number.
        id: Path<i64>,
    ) -> Result<JsonAnswer<TaskStatusView>, ApiError> {
        Ok(JsonAnswer(TaskStatusView::from(&self.known(id.0).await?)))
    }

    /// How far a task has come
    #[oai(path = "/tasks/:id/progress", method = "get", operation_id = "get_task_progress")]
    async fn progress(
        &self,
        /// The task's number.
        id: Path<i64>,
    ) -> Result<JsonAnswer<TaskProgressView>, ApiError> {
        Ok(JsonAnswer(TaskProgressView::from(&self.known(id.0).await?)))
    }

    /// Why a task does not run
    ///
    /// What holds it back, with what to do about it: its time, other tasks, a paused or full queue, workers that are missing
    /// or busy, those ahead of it. It is an answer of the moment.
    #[oai(path = "/tasks/:id/why", method = "get", operation_id = "explain_task")]
    async fn why(
        &self,
        /// The task's number.
        id: Path<i64>,
    ) -> Result<JsonAnswer<WhyView>, ApiError> {
        let explained = self.0.queues()?.explain(&Tenant::default(), known_id(id.0)?).await?;
        Ok(JsonAnswer(WhyView::from(&explained.ok_or_else(|| ApiError::unknown_task(id.0))?)))
    }

    /// A task's attempts
    ///
    /// With the calls of models that each made, and what all of them came to.
    #[oai(path = "/tasks/:id/attempts", method = "get", operation_id = "list_task_attempts")]
    async fn attempts(
        &self,
        /// The task's number.
        id: Path<i64>,
    ) -> Result<JsonAnswer<AttemptListView>, ApiError> {
        let attempts = self.0.tasks()?.attempts(&Tenant::default(), known_id(id.0)?).await?;
        let attempts = attempts.ok_or_else(|| ApiError::unknown_task(id.0))?;
        Ok(JsonAnswer(attempts.into()))
    }

    /// Cancel a task
    ///
    /// A waiting task ends at once; a running one is stopped by its worker, and with it the call to the model.
    #[oai(path = "/tasks/:id/cancel", method = "post", operation_id = "cancel_task")]
    async fn cancel(
        &self,
        /// The task's number.
        id: Path<i64>,
    ) -> Result<Cancelled, ApiError> {
        let outcome = self.0.tasks()?.cancel(&Tenant::default(), known_id(id.0)?).await?;
        match outcome {
            CancelOutcome::Unknown => Err(ApiError::unknown_task(id.0)),
            CancelOutcome::AlreadyEnded(status) => {
                Err(ApiError::conflict(format!("task {} has already ended as {}", id.0, status.as_str())))
            }
            CancelOutcome::Cancelled => {
                Ok(Cancelled::Ended(JsonAnswer(TaskView::from(&self.known(id.0).await?))))
            }
            CancelOutcome::Requested => {
                Ok(Cancelled::Requested(JsonAnswer(TaskView::from(&self.known(id.0).await?))))
            }
        }
    }

    /// Run a task again
    ///
    /// A task that FAILED, was CANCELLED or EXPIRED waits again as PENDING, with whole budgets and the attempts so far in
    /// its history; with `input`, it gets another one.
    #[oai(path = "/tasks/:id/retry", method = "post", operation_id = "retry_task")]
    async fn retry(
        &self,
        /// The task's number.
        id: Path<i64>,
        body: JsonBody<RetryBody, false>,
    ) -> Result<JsonAnswer<TaskView>, ApiError> {
        retry(self.0.tasks()?, id.0, &body.text).await
    }

    /// Run many tasks again
    ///
    /// Those with these `ids`, or those that pass the `filter`, newest first: FAILED ones unless it names states.
    #[oai(path = "/tasks/retry", method = "post", operation_id = "retry_tasks")]
    async fn retry_many(&self, body: JsonBody<SweepBody>) -> Result<JsonAnswer<SweepView>, ApiError> {
        Ok(JsonAnswer(sweep::retry(self.0.tasks()?, sweep::read(&body.text)?).await?))
    }

    /// Watch a task live
    ///
    /// Server-sent events: `state` (first, at each change, and last), `progress`, and `chunk`, a piece of the text, whose
    /// id `<attempt>.<seq>` is the point to resume after. `attempt_reset` says that another attempt begins the text anew:
    /// drop what you have. The stream ends when the task has ended.
    #[oai(path = "/tasks/:id/events", method = "get", operation_id = "watch_task")]
    async fn events(
        &self,
        /// The task's number.
        id: Path<i64>,
        /// Resume after this chunk, `<attempt>.<seq>`.
        #[oai(validator(pattern = r"^[0-9]{1,9}\.[0-9]{1,18}$"))]
        starting_after: Query<Option<String>>,
        /// The same, as browsers send it when they reconnect.
        #[oai(name = "Last-Event-ID")]
        last_event_id: Header<Option<String>>,
    ) -> Result<EventStream, ApiError> {
        let after = match starting_after.0.as_deref().map(|text| ("starting_after", text)) {
            Some((field, text)) => parse_event_id(field, text)?,
            None => match last_event_id.0.as_deref().filter(|text| !text.is_empty()) {
                Some(text) => parse_event_id("Last-Event-ID", text)?,
                None => (0, 0),
            },
        };
        let events = self.0.tasks()?.watch(&Tenant::default(), known_id(id.0)?, after).await?;
        let events = events.ok_or_else(|| ApiError::unknown_task(id.0))?;
        Ok(event_stream(events, self.0.stopping.clone()))
    }
}

impl TasksApi {
    async fn known(&self, id: i64) -> Result<Task, ApiError> {
        let task = self.0.tasks()?.read(&Tenant::default(), known_id(id)?).await?;
        task.ok_or_else(|| ApiError::unknown_task(id))
    }
}

/// Runs a task again and answers it as it waits.
pub(super) async fn retry(tasks: &Tasks, id: i64, body: &str) -> Result<JsonAnswer<TaskView>, ApiError> {
    let (tenant, task) = (Tenant::default(), known_id(id)?);
    let input = sweep::read_retry(body)?;
    match tasks.retry(&tenant, Retry { id: task, input }).await? {
        RetryOutcome::Waiting(..) | RetryOutcome::WaitingForOthers(_) => {
            let task = tasks.read(&tenant, task).await?.ok_or_else(|| ApiError::unknown_task(id))?;
            Ok(JsonAnswer(TaskView::from(&task)))
        }
        RetryOutcome::NotEnded(status) => {
            Err(ApiError::conflict(format!("task {id} has not ended: it is {}", status.as_str())))
        }
        RetryOutcome::Completed => Err(ApiError::conflict(format!("task {id} has completed"))),
        RetryOutcome::Unknown => Err(ApiError::unknown_task(id)),
    }
}

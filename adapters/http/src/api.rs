//! The operations.

use std::time::Duration;

use application::{
    ports::{CancelOutcome, DeleteOutcome, ListPage, TaskFilter},
    tasks::{LARGEST_PAGE, LONGEST_WAIT, Tasks},
};
use chrono::{DateTime, Utc};
use domain::{QueueName, Status, Task, TaskId, TaskType, Tenant};
use poem_openapi::{
    ApiResponse, OpenApi, Tags,
    param::{Header, Path, Query},
};
use tokio_util::sync::CancellationToken;

use crate::{
    ApiConfig,
    body::{JsonAnswer, JsonBody},
    events::{EventStream, event_stream, parse_event_id},
    problem::{ApiError, FieldError, Problem, ProblemJson},
    submission::{self, SubmissionBody},
    views::{
        AttemptListView, DependencyView, HealthStatusView, HealthView, LivenessView, StatsView, TaskListView,
        TaskProgressView, TaskStatusView, TaskTypeListView, TaskView,
    },
};

const DEFAULT_PAGE: i32 = 50;

/// What the operations share.
#[derive(Clone)]
pub(crate) struct Context {
    /// `None` only where the document is generated.
    pub(crate) tasks: Option<Tasks>,
    pub(crate) config: ApiConfig,
    /// Ends event streams when the server stops.
    pub(crate) stopping: CancellationToken,
}

impl Context {
    fn tasks(&self) -> Result<&Tasks, ApiError> {
        let detail = "this server has no task store";
        let problem = || ProblemJson(Problem::new(poem::http::StatusCode::SERVICE_UNAVAILABLE, detail));
        self.tasks.as_ref().ok_or_else(|| ApiError::Unavailable(problem(), 2))
    }
}

#[derive(Tags)]
enum Tag {
    /// Submit tasks, watch them, read what they came to.
    Tasks,
    /// How the product fares.
    System,
}

pub(crate) struct TasksApi(pub(crate) Context);
pub(crate) struct SystemApi(pub(crate) Context);

#[derive(ApiResponse)]
enum Submitted {
    /// Stored; it will run.
    #[oai(status = 201)]
    Created(
        JsonAnswer<TaskView>,
        /// Where to read it.
        #[oai(header = "Location")]
        String,
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

#[derive(ApiResponse)]
enum Health {
    /// It works, perhaps without something it can do without.
    #[oai(status = 200)]
    Up(JsonAnswer<HealthView>),
    /// The store cannot be reached.
    #[oai(status = 503)]
    Down(JsonAnswer<HealthView>),
}

#[OpenApi(tag = "Tag::Tasks")]
impl TasksApi {
    /// Submit a task
    ///
    /// Answers as soon as the task is stored; its work is not waited for.
    #[oai(path = "/tasks", method = "post", operation_id = "submit_task")]
    async fn submit(&self, body: JsonBody<SubmissionBody>) -> Result<Submitted, ApiError> {
        let submission = submission::read(&body.text)?;
        let task = self.0.tasks()?.submit(&Tenant::default(), vec![submission]).await?.pop();
        let Some(task) = task else { return Err(ApiError::bad_request("nothing was submitted")) };
        let location = format!("{}/tasks/{}", self.0.config.prefix, task.id);
        Ok(Submitted::Created(JsonAnswer(TaskView::from(&task)), location))
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
        };
        let limit = limit.0.as_deref().map_or(Some(DEFAULT_PAGE), |text| text.parse().ok());
        let limit =
            limit.and_then(|limit| usize::try_from(limit).ok()).filter(|n| (1..=LARGEST_PAGE).contains(n));
        if limit.is_none() {
            errors
                .push(FieldError::new("limit", format!("it is not a whole number from 1 to {LARGEST_PAGE}")));
        }
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
        let Some(limit) = limit.filter(|_| errors.is_empty()) else { return Err(ApiError::invalid(errors)) };
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
        Ok(JsonAnswer(TaskView::from(&task)))
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

    /// A task's attempts
    #[oai(path = "/tasks/:id/attempts", method = "get", operation_id = "list_task_attempts")]
    async fn attempts(
        &self,
        /// The task's number.
        id: Path<i64>,
    ) -> Result<JsonAnswer<AttemptListView>, ApiError> {
        let attempts = self.0.tasks()?.attempts(&Tenant::default(), known_id(id.0)?).await?;
        let attempts = attempts.ok_or_else(|| ApiError::unknown_task(id.0))?;
        Ok(JsonAnswer(AttemptListView { items: attempts.into_iter().map(Into::into).collect() }))
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

    /// Watch a task live
    ///
    /// Server-sent events: `state` (first, at each change, and last), `progress`, and `chunk`, a piece of the text, whose
    /// id `<attempt>.<seq>` is the point to resume after. The stream ends when the task has ended.
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

#[OpenApi(tag = "Tag::System")]
impl SystemApi {
    /// How the product and its dependencies fare
    #[oai(path = "/health", method = "get", operation_id = "get_health")]
    async fn health(&self) -> Health {
        let found = match &self.0.tasks {
            Some(tasks) => tasks.health().await,
            None => Vec::new(),
        };
        let status = if found.iter().any(|one| one.required && !one.healthy) {
            HealthStatusView::Unhealthy
        } else if found.iter().any(|one| !one.healthy) {
            HealthStatusView::Degraded
        } else {
            HealthStatusView::Healthy
        };
        let dependencies = found
            .into_iter()
            .map(|one| DependencyView {
                name: one.name.to_owned(),
                status: if one.healthy { HealthStatusView::Healthy } else { HealthStatusView::Unhealthy },
                error: one.error,
            })
            .collect();
        let config = &self.0.config;
        let (app_name, version) = (config.app_name.clone(), config.version.clone());
        let answer = JsonAnswer(HealthView { status, app_name, version, timestamp: now(), dependencies });
        if status == HealthStatusView::Unhealthy { Health::Down(answer) } else { Health::Up(answer) }
    }

    /// Whether the process is alive
    #[oai(path = "/health/live", method = "get", operation_id = "get_liveness")]
    async fn live(&self) -> JsonAnswer<LivenessView> {
        JsonAnswer(LivenessView { status: "alive".to_owned() })
    }

    /// How many tasks stand where
    #[oai(path = "/stats", method = "get", operation_id = "get_stats")]
    async fn stats(&self) -> Result<JsonAnswer<StatsView>, ApiError> {
        Ok(JsonAnswer(self.0.tasks()?.counts(&Tenant::default()).await?.into()))
    }

    /// The task types that can be submitted
    #[oai(path = "/task-types", method = "get", operation_id = "list_task_types")]
    async fn task_types(&self) -> Result<JsonAnswer<TaskTypeListView>, ApiError> {
        Ok(JsonAnswer(TaskTypeListView {
            items: self.0.tasks()?.registry().iter().map(Into::into).collect(),
        }))
    }
}

/// The one place that shows this server's own clock; nothing is decided by it.
#[allow(clippy::disallowed_methods)]
fn now() -> DateTime<Utc> {
    std::time::SystemTime::now().into()
}

/// Ids start at 1: no other number is the number of a task.
fn known_id(id: i64) -> Result<TaskId, ApiError> {
    if id < 1 { Err(ApiError::unknown_task(id)) } else { Ok(TaskId(id)) }
}

fn read_statuses(text: &str, errors: &mut Vec<FieldError>) -> Vec<Status> {
    let mut statuses = Vec::new();
    for name in text.split(',').map(str::trim).filter(|name| !name.is_empty()) {
        match Status::parse(name) {
            Some(status) => statuses.push(status),
            None => {
                let known = Status::ALL.map(Status::as_str).join(", ");
                let name: String = name.chars().take(40).collect();
                errors.push(FieldError::new("status", format!("{name:?} is none of {known}")));
            }
        }
    }
    statuses
}

fn read_name<T, E: std::fmt::Display>(
    field: &str,
    text: Option<String>,
    new: impl Fn(String) -> Result<T, E>,
    errors: &mut Vec<FieldError>,
) -> Option<T> {
    new(text?).map_err(|error| errors.push(FieldError::new(field, error.to_string()))).ok()
}

fn read_wait(text: &str) -> Result<Duration, ApiError> {
    let digits = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => Some(0.001),
        "s" | "" => Some(1.0),
        "m" => Some(60.0),
        _ => None,
    };
    let seconds = scale.and_then(|scale| number.parse::<f64>().ok().map(|number| number * scale));
    let wait = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    wait.filter(|wait| *wait <= LONGEST_WAIT).ok_or_else(|| {
        let most = LONGEST_WAIT.as_secs();
        let text: String = text.chars().take(40).collect();
        let message = format!("{text:?} is not a duration such as 10s or 500ms, at most {most}s");
        ApiError::invalid(vec![FieldError::new("wait", message)])
    })
}

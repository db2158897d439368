//! Workers: who they are, and what they are told to do.

use std::time::Duration;

use application::fleet::{CommandError, Target};
use domain::{Command, Pace, QueueName, TaskType};
use poem_openapi::{
    ApiResponse, Object, OpenApi,
    param::{Path, Query},
};

use super::{Context, Tag, parameters::read_wait};
use crate::{
    body::{JsonAnswer, JsonBody},
    fields::{Fields, read_body, shorten},
    problem::ApiError,
    views::workers::{CommandAnswersView, WorkerListView, WorkerView},
};

/// How long answers are waited for, unless said otherwise.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) struct WorkersApi(pub(crate) Context);

#[derive(ApiResponse)]
enum Told {
    /// Every worker that was told has answered.
    #[oai(status = 200)]
    Answered(JsonAnswer<CommandAnswersView>),
    /// Some have not answered yet; they obey as soon as they can.
    #[oai(status = 202)]
    Waiting(JsonAnswer<CommandAnswersView>),
}

/// How many slots.
#[derive(Debug, Object)]
#[oai(rename = "Concurrency", example)]
pub(crate) struct ConcurrencyBody {
    /// Tasks in flight at once.
    #[oai(validator(minimum(value = "1"), maximum(value = "1000000")))]
    concurrency: i32,
}

/// Which queue.
#[derive(Debug, Object)]
#[oai(rename = "QueueChoice", example)]
pub(crate) struct QueueBody {
    /// Its name.
    #[oai(validator(pattern = "^[A-Za-z0-9_.-]{1,64}$"))]
    queue: String,
}

/// Which rate for which type.
#[derive(Debug, Object)]
#[oai(rename = "RateLimit", example)]
pub(crate) struct RateLimitBody {
    /// The task type.
    #[oai(rename = "type", validator(pattern = "^[A-Za-z0-9_.-]{1,128}$"))]
    task_type: String,
    /// Such as `10/s`, `600/m` or `5/h`; null or absent lifts the limit.
    #[oai(validator(max_length = 20))]
    rate: Option<String>,
}

impl poem_openapi::types::Example for ConcurrencyBody {
    fn example() -> Self {
        Self { concurrency: 50 }
    }
}

impl poem_openapi::types::Example for QueueBody {
    fn example() -> Self {
        Self { queue: "reports".to_owned() }
    }
}

impl poem_openapi::types::Example for RateLimitBody {
    fn example() -> Self {
        Self { task_type: "ai.text_generation".to_owned(), rate: Some("600/m".to_owned()) }
    }
}

#[OpenApi(tag = "Tag::Workers")]
impl WorkersApi {
    /// List the workers
    ///
    /// Those that are not gone, and those that went within the hour; the latest start first. What they do is at most a few
    /// seconds old.
    #[oai(path = "/workers", method = "get", operation_id = "list_workers")]
    async fn list(&self) -> Result<JsonAnswer<WorkerListView>, ApiError> {
        Ok(JsonAnswer(self.0.workers()?.list().await?.into()))
    }

    /// Read a worker
    #[oai(path = "/workers/:worker", method = "get", operation_id = "get_worker")]
    async fn read(
        &self,
        /// Its number, or its name: then the latest start of that name.
        worker: Path<String>,
    ) -> Result<JsonAnswer<WorkerView>, ApiError> {
        let found = match Target::parse(&worker.0) {
            Some(target) => self.0.workers()?.find(&target).await?,
            None => None,
        };
        found.map(|worker| JsonAnswer(worker.into())).ok_or_else(|| unknown(&worker.0))
    }

    /// Ask workers for a sign of life
    #[oai(path = "/workers/:worker/ping", method = "post", operation_id = "ping_workers")]
    async fn ping(
        &self,
        /// A worker's number, a name, or `all`.
        worker: Path<String>,
        /// How long to wait for answers, such as `500ms` or `10s`; 5s unless said otherwise, at most 60s.
        wait: Query<Option<String>>,
    ) -> Result<Told, ApiError> {
        self.tell(&worker.0, Command::Ping, wait.0.as_deref()).await
    }

    /// Let workers take no tasks
    ///
    /// What runs goes on.
    #[oai(path = "/workers/:worker/pause", method = "post", operation_id = "pause_workers")]
    async fn pause(
        &self,
        /// A worker's number, a name, or `all`.
        worker: Path<String>,
        /// How long to wait for answers, such as `500ms` or `10s`; 5s unless said otherwise, at most 60s.
        wait: Query<Option<String>>,
    ) -> Result<Told, ApiError> {
        self.tell(&worker.0, Command::Pause, wait.0.as_deref()).await
    }

    /// Let workers take tasks again
    #[oai(path = "/workers/:worker/resume", method = "post", operation_id = "resume_workers")]
    async fn resume(
        &self,
        /// A worker's number, a name, or `all`.
        worker: Path<String>,
        /// How long to wait for answers, such as `500ms` or `10s`; 5s unless said otherwise, at most 60s.
        wait: Query<Option<String>>,
    ) -> Result<Told, ApiError> {
        self.tell(&worker.0, Command::Resume, wait.0.as_deref()).await
    }

    /// Give workers another number of slots
    ///
    /// Each of them. What runs beyond goes on.
    #[oai(path = "/workers/:worker/concurrency", method = "post", operation_id = "set_worker_concurrency")]
    async fn concurrency(
        &self,
        /// A worker's number, a name, or `all`.
        worker: Path<String>,
        /// How long to wait for answers, such as `500ms` or `10s`; 5s unless said otherwise, at most 60s.
        wait: Query<Option<String>>,
        body: JsonBody<ConcurrencyBody>,
    ) -> Result<Told, ApiError> {
        let command = read_body(&body.text, |fields| {
            let slots = required(fields, "concurrency", |fields, field| fields.whole(field, 1, 1_000_000))?;
            usize::try_from(slots).ok().map(Command::Concurrency)
        })?;
        self.tell(&worker.0, command, wait.0.as_deref()).await
    }

    /// Let workers serve another queue
    #[oai(path = "/workers/:worker/add-queue", method = "post", operation_id = "add_worker_queue")]
    async fn add_queue(
        &self,
        /// A worker's number, a name, or `all`.
        worker: Path<String>,
        /// How long to wait for answers, such as `500ms` or `10s`; 5s unless said otherwise, at most 60s.
        wait: Query<Option<String>>,
        body: JsonBody<QueueBody>,
    ) -> Result<Told, ApiError> {
        self.tell(&worker.0, Command::AddQueue(read_queue(&body.text)?), wait.0.as_deref()).await
    }

    /// Let workers serve a queue no more
    ///
    /// What runs of it goes on. A worker keeps the last of the queues that it was started for.
    #[oai(path = "/workers/:worker/remove-queue", method = "post", operation_id = "remove_worker_queue")]
    async fn remove_queue(
        &self,
        /// A worker's number, a name, or `all`.
        worker: Path<String>,
        /// How long to wait for answers, such as `500ms` or `10s`; 5s unless said otherwise, at most 60s.
        wait: Query<Option<String>>,
        body: JsonBody<QueueBody>,
    ) -> Result<Told, ApiError> {
        self.tell(&worker.0, Command::RemoveQueue(read_queue(&body.text)?), wait.0.as_deref()).await
    }

    /// Hold a task type to a rate
    ///
    /// On each of the workers for itself. A task that comes too early waits as SCHEDULED, and is charged nothing.
    #[oai(path = "/workers/:worker/rate-limit", method = "post", operation_id = "set_worker_rate_limit")]
    async fn rate_limit(
        &self,
        /// A worker's number, a name, or `all`.
        worker: Path<String>,
        /// How long to wait for answers, such as `500ms` or `10s`; 5s unless said otherwise, at most 60s.
        wait: Query<Option<String>>,
        body: JsonBody<RateLimitBody>,
    ) -> Result<Told, ApiError> {
        let command = read_body(&body.text, |fields| {
            let task_type =
                required(fields, "type", |fields, field| fields.name::<TaskType, _>(field, TaskType::new));
            let rate = fields.name("rate", |text| text.parse::<Pace>());
            task_type.map(|task_type| Command::RateLimit(task_type, rate))
        })?;
        self.tell(&worker.0, command, wait.0.as_deref()).await
    }

    /// Let workers finish what they run, and end
    ///
    /// However long that takes; they take no tasks any more.
    #[oai(path = "/workers/:worker/drain", method = "post", operation_id = "drain_workers")]
    async fn drain(
        &self,
        /// A worker's number, a name, or `all`.
        worker: Path<String>,
        /// How long to wait for answers, such as `500ms` or `10s`; 5s unless said otherwise, at most 60s.
        wait: Query<Option<String>>,
    ) -> Result<Told, ApiError> {
        self.tell(&worker.0, Command::Drain, wait.0.as_deref()).await
    }

    /// Let workers end
    ///
    /// As on SIGTERM: what they have not finished within their grace time is given back, and charged nothing.
    #[oai(path = "/workers/:worker/shutdown", method = "post", operation_id = "shut_down_workers")]
    async fn shutdown(
        &self,
        /// A worker's number, a name, or `all`.
        worker: Path<String>,
        /// How long to wait for answers, such as `500ms` or `10s`; 5s unless said otherwise, at most 60s.
        wait: Query<Option<String>>,
    ) -> Result<Told, ApiError> {
        self.tell(&worker.0, Command::Shutdown, wait.0.as_deref()).await
    }
}

impl WorkersApi {
    async fn tell(&self, worker: &str, command: Command, wait: Option<&str>) -> Result<Told, ApiError> {
        let patience = wait.map_or(Ok(PATIENCE), read_wait)?;
        let target = Target::parse(worker).ok_or_else(|| unknown(worker))?;
        let obeyed = self.0.workers()?.command(&target, &command, patience).await?;
        let answers = CommandAnswersView::new(&command, obeyed);
        let complete = answers.is_complete();
        let answer = JsonAnswer(answers);
        Ok(if complete { Told::Answered(answer) } else { Told::Waiting(answer) })
    }
}

impl From<CommandError> for ApiError {
    fn from(error: CommandError) -> Self {
        match error {
            CommandError::Store(error) => error.into(),
            CommandError::Unknown(_) => Self::not_found(error.to_string()),
            CommandError::Gone(_) | CommandError::Nobody => Self::conflict(error.to_string()),
        }
    }
}

fn unknown(worker: &str) -> ApiError {
    ApiError::not_found(CommandError::Unknown(shorten(worker)).to_string())
}

fn read_queue(body: &str) -> Result<QueueName, ApiError> {
    read_body(body, |fields| {
        required(fields, "queue", |fields, field| fields.name::<QueueName, _>(field, QueueName::new))
    })
}

fn required<T>(
    fields: &mut Fields<'_>,
    field: &str,
    read: impl FnOnce(&mut Fields<'_>, &str) -> Option<T>,
) -> Option<T> {
    let value = read(fields, field);
    if value.is_none() && fields.is_fine(field) {
        fields.refuse(field, "it is missing");
    }
    value
}

//! Batches.

use std::sync::Arc;

use application::{
    ports::{CancelOutcome, ListPage, RetryOutcome, TaskFilter},
    task_types::Callback,
    tasks::Admission,
};
use domain::{Task, TaskId, TaskType, Tenant, flow::BATCH_TYPE};
use poem::http::StatusCode;
use poem_openapi::{
    ApiResponse, OpenApi,
    param::{Header, Path, Query},
};

use super::{
    Context, Tag,
    parameters::{known_id, read_limit, read_statuses},
};
use crate::{
    batch_lines::{self, Batch, Bounds, LinesBody},
    batching::{self, ArticlesBody, BatchBody},
    body::{JsonAnswer, JsonBody},
    events::{EventStream, batch_stream},
    idempotency::{self, Fingerprint},
    problem::{ApiError, FieldError, Problem, ProblemJson},
    views::{
        TaskListView, TaskView,
        batches::{ArticlesView, BatchListView, BatchRetriedView, BatchView},
        usage::UsageView,
    },
};

pub(crate) struct BatchesApi(pub(crate) Context);

#[derive(ApiResponse)]
enum Submitted {
    /// Stored, with all its items.
    #[oai(status = 201)]
    Created(
        JsonAnswer<BatchView>,
        /// Where to read it.
        #[oai(header = "Location")]
        String,
        /// `true` where it was stored before, by a request with the same Idempotency-Key.
        #[oai(header = "Idempotency-Replayed")]
        Option<bool>,
    ),
}

#[derive(ApiResponse)]
enum Ordered {
    /// Stored; they are being written.
    #[oai(status = 201)]
    Created(
        JsonAnswer<ArticlesView>,
        /// Where to read how far they are.
        #[oai(header = "Location")]
        String,
    ),
}

#[OpenApi(tag = "Tag::Batches")]
impl BatchesApi {
    /// Submit a batch
    ///
    /// Up to 10000 tasks of any types, stored together, all or none. They run side by side; the batch ends when all of them
    /// have ended. Its number is that of a task: reading, waiting, watching and cancelling work with it.
    #[oai(path = "/batches", method = "post", operation_id = "submit_batch")]
    async fn submit(
        &self,
        body: JsonBody<BatchBody>,
        /// Your name for this request: 1 to 255 printable ASCII characters without spaces, such as a UUID.
        #[oai(name = "Idempotency-Key", validator(min_length = 1, max_length = 257))]
        idempotency_key: Header<Option<String>>,
    ) -> Result<Submitted, ApiError> {
        let (mut batch, callback) = batching::read(&body.text)?;
        batch.idempotency = idempotency::read(idempotency_key.0.as_deref(), "submit_batch", &body.text)?;
        let (tasks, tenant) = (self.0.tasks()?, Tenant::default());
        if let Some(callback) = &callback {
            tasks.check_callback(callback)?;
        }
        let admission = tasks.submit_batch(&tenant, batch).await?;
        self.submitted(admission, callback.as_ref()).await
    }

    /// Submit a large batch, line by line
    ///
    /// NDJSON: each line a task as in `items`, without `name`, `after` and `after_items`, and 10000 at most. The first line may say
    /// something of the batch itself: `{"batch": {"name", "defaults", "then", "metadata", "callback_url", "callback_events"}}`. Each
    /// line is checked as it arrives, and none has to fit into memory beside the others; 1 GiB at most. All are stored together, or
    /// none.
    #[oai(path = "/batches/lines", method = "post", operation_id = "submit_batch_lines")]
    async fn submit_lines(
        &self,
        body: LinesBody,
        /// Your name for this request: 1 to 255 printable ASCII characters without spaces, such as a UUID.
        #[oai(name = "Idempotency-Key", validator(min_length = 1, max_length = 257))]
        idempotency_key: Header<Option<String>>,
    ) -> Result<Submitted, ApiError> {
        let key = idempotency::read_key(idempotency_key.0.as_deref())?;
        let (tasks, tenant) = (self.0.tasks()?, Tenant::default());
        let Ok(_place) = self.0.spools.try_acquire() else {
            let detail = "too many large batches are arriving; try again in some seconds";
            let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail);
            return Err(ApiError::Unavailable(ProblemJson(problem), 5));
        };
        let config = &self.0.config;
        let bounds = Bounds { line: config.body_limit, patience: config.body_timeout };
        let fingerprint = Fingerprint::of("submit_batch_lines");
        let batch = batch_lines::read(body.0, tasks, &tenant, fingerprint, bounds).await?;
        let Batch { mut submission, callback, items, fingerprint } = batch;
        submission.idempotency = key.map(|key| fingerprint.with(key));
        if let Some(callback) = &callback {
            tasks.check_callback(callback)?;
        }
        let admission = tasks.submit_large_batch(&tenant, submission, Arc::new(items)).await?;
        self.submitted(admission, callback.as_ref()).await
    }

    /// Have articles written
    ///
    /// One task of type `ai.article` per title, side by side; each can be read as soon as it is written. The answer's
    /// `task_id` is taken by the routes of tasks (status, progress, cancel) and of batches (items, retry).
    #[oai(path = "/tasks/generate-articles", method = "post", operation_id = "generate_articles")]
    async fn generate_articles(
        &self,
        body: JsonBody<ArticlesBody>,
        /// Your name for this request: 1 to 255 printable ASCII characters without spaces, such as a UUID.
        #[oai(name = "Idempotency-Key", validator(min_length = 1, max_length = 257))]
        idempotency_key: Header<Option<String>>,
    ) -> Result<Ordered, ApiError> {
        let mut articles = batching::read_articles(&body.text)?;
        articles.idempotency =
            idempotency::read(idempotency_key.0.as_deref(), "generate_articles", &body.text)?;
        let (tasks, tenant) = (self.0.tasks()?, Tenant::default());
        let (task, mut items, replayed) = admitted(tasks.submit_articles(&tenant, articles).await?)?;
        if replayed {
            items = tasks.items_of(&tenant, task.id).await?;
        }
        let location = format!("{}/tasks/{}", self.0.config.prefix, task.id);
        let answer = ArticlesView {
            task_id: task.id.0,
            total: i64::try_from(items.len()).unwrap_or(i64::MAX),
            item_ids: items.into_iter().map(|id| id.0).collect(),
            status: task.status.into(),
        };
        Ok(Ordered::Created(JsonAnswer(answer), location))
    }

    /// List batches, newest first
    #[oai(path = "/batches", method = "get", operation_id = "list_batches")]
    async fn list(
        &self,
        /// How many at most: 1 to 500, 50 unless said otherwise.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<JsonAnswer<BatchListView>, ApiError> {
        let mut errors = Vec::new();
        let page = read_page(limit.0.as_deref(), cursor.0.as_deref(), &mut errors);
        if !errors.is_empty() {
            return Err(ApiError::invalid(errors));
        }
        let (tasks, tenant) = (self.0.tasks()?, Tenant::default());
        let filter = TaskFilter { task_type: TaskType::new(BATCH_TYPE).ok(), ..TaskFilter::default() };
        let found = tasks.list(&tenant, &filter, page).await?;
        let ids: Vec<TaskId> = found.iter().map(|task| task.id).collect();
        let counts = tasks.batch_counts(&tenant, &ids).await?;
        let items = found.iter().zip(counts).map(|(task, counts)| BatchView::new(task, counts)).collect();
        Ok(JsonAnswer(BatchListView { items, next_cursor: next_cursor(&found, page.limit) }))
    }

    /// Read a batch
    #[oai(path = "/batches/:id", method = "get", operation_id = "get_batch")]
    async fn read(
        &self,
        /// Its number.
        id: Path<i64>,
    ) -> Result<JsonAnswer<BatchView>, ApiError> {
        Ok(JsonAnswer(self.known(id.0).await?))
    }

    /// What the items of a batch used and cost
    ///
    /// The sum over all calls of models, failed attempts included.
    #[oai(path = "/batches/:id/usage", method = "get", operation_id = "get_batch_usage")]
    async fn usage(
        &self,
        /// Its number.
        id: Path<i64>,
    ) -> Result<JsonAnswer<UsageView>, ApiError> {
        let sum = self.0.tasks()?.batch_usage(&Tenant::default(), known_id(id.0)?).await?;
        Ok(JsonAnswer(sum.ok_or_else(|| ApiError::unknown_task(id.0))?.into()))
    }

    /// The items of a batch, the last first
    ///
    /// Each as a task, with its result or its error.
    #[oai(path = "/batches/:id/items", method = "get", operation_id = "list_batch_items")]
    async fn items(
        &self,
        /// Its number.
        id: Path<i64>,
        /// Only items that stand here; comma separated for several, in any case.
        status: Query<Option<String>>,
        /// How many at most: 1 to 500, 50 unless said otherwise.
        limit: Query<Option<String>>,
        /// `next_cursor` of the page before.
        cursor: Query<Option<String>>,
    ) -> Result<JsonAnswer<TaskListView>, ApiError> {
        let mut errors = Vec::new();
        let statuses = read_statuses(status.0.as_deref().unwrap_or_default(), &mut errors);
        let page = read_page(limit.0.as_deref(), cursor.0.as_deref(), &mut errors);
        if !errors.is_empty() {
            return Err(ApiError::invalid(errors));
        }
        let batch = known_id(id.0)?;
        let filter = TaskFilter { statuses, batch: Some(batch), ..TaskFilter::default() };
        let found = self.0.tasks()?.list(&Tenant::default(), &filter, page).await?;
        if found.is_empty() {
            self.known(id.0).await?;
        }
        let next_cursor = next_cursor(&found, page.limit);
        Ok(JsonAnswer(TaskListView { items: found.iter().map(TaskView::from).collect(), next_cursor }))
    }

    /// Cancel a batch
    ///
    /// It ends at once, and so do the items that wait; running ones are stopped by their workers.
    #[oai(path = "/batches/:id/cancel", method = "post", operation_id = "cancel_batch")]
    async fn cancel(
        &self,
        /// Its number.
        id: Path<i64>,
    ) -> Result<JsonAnswer<BatchView>, ApiError> {
        self.known(id.0).await?;
        match self.0.tasks()?.cancel(&Tenant::default(), TaskId(id.0)).await? {
            CancelOutcome::AlreadyEnded(status) => {
                Err(ApiError::conflict(format!("batch {} has already ended as {}", id.0, status.as_str())))
            }
            CancelOutcome::Unknown => Err(unknown(id.0)),
            CancelOutcome::Cancelled | CancelOutcome::Requested => Ok(JsonAnswer(self.known(id.0).await?)),
        }
    }

    /// Run what did not complete again
    ///
    /// Items that FAILED, were CANCELLED or EXPIRED wait again, and the batch waits for them; those that completed are left
    /// alone.
    #[oai(path = "/batches/:id/retry", method = "post", operation_id = "retry_batch")]
    async fn retry(
        &self,
        /// Its number.
        id: Path<i64>,
    ) -> Result<JsonAnswer<BatchRetriedView>, ApiError> {
        self.known(id.0).await?;
        let (outcome, retried) = self.0.tasks()?.retry_batch(&Tenant::default(), TaskId(id.0)).await?;
        match outcome {
            RetryOutcome::Unknown => return Err(unknown(id.0)),
            RetryOutcome::Completed if retried == 0 => {
                return Err(ApiError::conflict(format!("batch {} has completed", id.0)));
            }
            _ => {}
        }
        let retried = i64::try_from(retried).unwrap_or(i64::MAX);
        Ok(JsonAnswer(BatchRetriedView { retried, batch: self.known(id.0).await? }))
    }

    /// Watch a batch live
    ///
    /// Server-sent events: `state` (first, at each change, and last), `progress`, whose `current` counts the items that have
    /// ended, and `counts`: how many items stand where, at changes, once a second at most. The stream ends when the batch has
    /// ended.
    #[oai(path = "/batches/:id/events", method = "get", operation_id = "watch_batch")]
    async fn events(
        &self,
        /// Its number.
        id: Path<i64>,
    ) -> Result<EventStream, ApiError> {
        self.known(id.0).await?;
        let events = self.0.tasks()?.watch_batch(&Tenant::default(), TaskId(id.0)).await?;
        Ok(batch_stream(events.ok_or_else(|| unknown(id.0))?, self.0.stopping.clone()))
    }
}

impl BatchesApi {
    /// The answer to a submission, once it is known who is to be told of its end.
    async fn submitted(
        &self,
        admission: Option<(Admission, Vec<TaskId>)>,
        callback: Option<&Callback>,
    ) -> Result<Submitted, ApiError> {
        let (task, items, replayed) = admitted(admission)?;
        if let Some(callback) = callback {
            self.0.tasks()?.callback_for(&Tenant::default(), task.id, callback).await?;
        }
        let location = format!("{}/batches/{}", self.0.config.prefix, task.id);
        let batch = self.known(task.id.0).await?.with_items(&items);
        Ok(Submitted::Created(JsonAnswer(batch), location, replayed.then_some(true)))
    }

    async fn known(&self, id: i64) -> Result<BatchView, ApiError> {
        let id = TaskId(id);
        if id.0 < 1 {
            return Err(unknown(id.0));
        }
        let found = self.0.tasks()?.batch(&Tenant::default(), id).await?;
        found.map(|(task, counts)| BatchView::new(&task, counts)).ok_or_else(|| unknown(id.0))
    }
}

fn unknown(id: i64) -> ApiError {
    ApiError::not_found(format!("there is no batch {id}"))
}

/// The task that stands for what was submitted, the numbers of its items where it is new, and whether it is not.
fn admitted(admission: Option<(Admission, Vec<TaskId>)>) -> Result<(Task, Vec<TaskId>, bool), ApiError> {
    match admission {
        Some((Admission::Created(task), items)) => Ok((task, items, false)),
        Some((Admission::Replayed(task) | Admission::Existing(task), _)) => Ok((task, Vec::new(), true)),
        Some((Admission::KeyReused(id), _)) => {
            let message = format!(
                "it was used for another request, which made task {id}; take a new key for a new request"
            );
            Err(ApiError::invalid(vec![FieldError::new(idempotency::HEADER, message)]))
        }
        None => Err(ApiError::bad_request("nothing was submitted")),
    }
}

fn read_page(limit: Option<&str>, cursor: Option<&str>, errors: &mut Vec<FieldError>) -> ListPage {
    let limit = read_limit(limit, errors);
    let before = cursor.and_then(|text| {
        let id = text.parse::<i64>().ok().filter(|id| *id > 0);
        if id.is_none() {
            errors.push(FieldError::new("cursor", "it is not a next_cursor of an earlier page"));
        }
        id.map(TaskId)
    });
    ListPage { before, limit }
}

fn next_cursor(found: &[Task], limit: usize) -> Option<String> {
    found.last().filter(|_| found.len() == limit).map(|task| task.id.to_string())
}

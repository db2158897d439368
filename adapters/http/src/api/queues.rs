//! Queues.

use application::queues::QueueReport;
use domain::{QueueName, Tenant};
use poem_openapi::{OpenApi, param::Path};

use super::{Context, Tag};
use crate::{
    body::JsonAnswer,
    events::{EventStream, queue_stream},
    problem::ApiError,
    views::queues::{PurgeView, QueueListView, QueueView},
};

pub(crate) struct QueuesApi(pub(crate) Context);

#[OpenApi(tag = "Tag::Queues")]
impl QueuesApi {
    /// List queues, by name
    ///
    /// Every queue that is routed to or configured, that stands still, or that has tasks.
    #[oai(path = "/queues", method = "get", operation_id = "list_queues")]
    async fn list(&self) -> Result<JsonAnswer<QueueListView>, ApiError> {
        let found = self.0.queues()?.list(&Tenant::default()).await?;
        Ok(JsonAnswer(QueueListView { items: found.iter().map(QueueView::from).collect() }))
    }

    /// How a queue fares
    ///
    /// What is routed there, its settings, how many of its tasks stand where, how long somebody has been waiting, and how
    /// its tasks ran during the last five minutes.
    #[oai(path = "/queues/:name", method = "get", operation_id = "get_queue")]
    async fn read(
        &self,
        /// What it is called.
        #[oai(validator(pattern = "^[A-Za-z0-9_.-]{1,64}$"))]
        name: Path<String>,
    ) -> Result<JsonAnswer<QueueView>, ApiError> {
        let report = self.known(&name.0).await?;
        Ok(JsonAnswer(QueueView::from(&report)))
    }

    /// Watch a queue live
    ///
    /// Server-sent events named `queue`: the queue as `GET /queues/{name}` shows it, first of all, and whenever the counts of
    /// its tasks, its workers or whether it stands still have changed, once a second at most.
    #[oai(path = "/queues/:name/events", method = "get", operation_id = "watch_queue")]
    async fn events(
        &self,
        /// What it is called.
        #[oai(validator(pattern = "^[A-Za-z0-9_.-]{1,64}$"))]
        name: Path<String>,
    ) -> Result<EventStream, ApiError> {
        let events = self.0.queues()?.watch(&Tenant::default(), &named(&name.0)?).await?;
        let events = events.ok_or_else(|| unknown(&name.0))?;
        Ok(queue_stream(events, self.0.stopping.clone()))
    }

    /// Let a queue stand still
    ///
    /// Within a second no worker takes tasks out of it any more; what runs, runs on. It stays so until it is resumed, over
    /// restarts of everything. New tasks are accepted, and wait. A queue that nobody has used yet can be paused too.
    #[oai(path = "/queues/:name/pause", method = "post", operation_id = "pause_queue")]
    async fn pause(
        &self,
        /// What it is called.
        #[oai(validator(pattern = "^[A-Za-z0-9_.-]{1,64}$"))]
        name: Path<String>,
    ) -> Result<JsonAnswer<QueueView>, ApiError> {
        self.0.queues()?.pause(&named(&name.0)?, true).await?;
        let report = self.known(&name.0).await?;
        Ok(JsonAnswer(QueueView::from(&report)))
    }

    /// Let a queue go on
    #[oai(path = "/queues/:name/resume", method = "post", operation_id = "resume_queue")]
    async fn resume(
        &self,
        /// What it is called.
        #[oai(validator(pattern = "^[A-Za-z0-9_.-]{1,64}$"))]
        name: Path<String>,
    ) -> Result<JsonAnswer<QueueView>, ApiError> {
        let before = self.known(&name.0).await?;
        self.0.queues()?.pause(&before.name, false).await?;
        Ok(JsonAnswer(QueueView::from(&QueueReport { paused: false, ..before })))
    }

    /// Empty a queue
    ///
    /// Every task that waits there, also for a later moment, ends as CANCELLED with the error code `purged`. What runs is
    /// left alone. At most about 100,000 tasks in one call.
    #[oai(path = "/queues/:name/purge", method = "post", operation_id = "purge_queue")]
    async fn purge(
        &self,
        /// What it is called.
        #[oai(validator(pattern = "^[A-Za-z0-9_.-]{1,64}$"))]
        name: Path<String>,
    ) -> Result<JsonAnswer<PurgeView>, ApiError> {
        let report = self.0.queues()?.purge(&Tenant::default(), &named(&name.0)?).await?;
        Ok(JsonAnswer(PurgeView::from(report)))
    }
}

impl QueuesApi {
    async fn known(&self, name: &str) -> Result<QueueReport, ApiError> {
        let found = self.0.queues()?.read(&Tenant::default(), &named(name)?).await?;
        found.ok_or_else(|| unknown(name))
    }
}

/// A text that is no name is the name of no queue.
fn named(name: &str) -> Result<QueueName, ApiError> {
    QueueName::new(name).map_err(|_| unknown(name))
}

fn unknown(name: &str) -> ApiError {
    let shown: String = name.chars().take(80).collect();
    ApiError::not_found(format!("there is no queue {shown:?}: nothing is routed there, and it has no tasks"))
}

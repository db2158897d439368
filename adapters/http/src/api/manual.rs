//! Manual handling: what failed for good.

use application::ports::DiscardOutcome;
use domain::{Status, Tenant};
use poem_openapi::{ApiResponse, OpenApi, param::Path};

use super::{Context, Tag, parameters::known_id, tasks::retry};
use crate::{
    body::{JsonAnswer, JsonBody},
    problem::ApiError,
    sweep::{self, RetryBody, SweepBody},
    views::{
        TaskView,
        manual::{FailuresView, ManualTaskView, SweepView},
    },
};

pub(crate) struct ManualApi(pub(crate) Context);

#[derive(ApiResponse)]
enum Discarded {
    /// It is gone.
    #[oai(status = 204)]
    Gone,
}

#[OpenApi(tag = "Tag::Manual")]
impl ManualApi {
    /// What waits for a person, by reason
    ///
    /// FAILED tasks by the code of their error and their type, the most frequent first, at most 200 groups.
    /// `GET /tasks?status=FAILED&error_code=…` lists the tasks of one. They stay until somebody handles them, or for as
    /// long as `manual_retention` in the configuration says.
    #[oai(path = "/manual-tasks", method = "get", operation_id = "list_manual_tasks")]
    async fn groups(&self) -> Result<JsonAnswer<FailuresView>, ApiError> {
        Ok(JsonAnswer(self.0.tasks()?.failures(&Tenant::default()).await?.into()))
    }

    /// A failed task with all its attempts
    #[oai(path = "/manual-tasks/:id", method = "get", operation_id = "get_manual_task")]
    async fn inspect(
        &self,
        /// The task's number.
        id: Path<i64>,
    ) -> Result<JsonAnswer<ManualTaskView>, ApiError> {
        let (tasks, tenant, task_id) = (self.0.tasks()?, Tenant::default(), known_id(id.0)?);
        let task = tasks.read(&tenant, task_id).await?.filter(|task| task.status == Status::Failed);
        let task = task.ok_or_else(|| ApiError::not_found(format!("there is no failed task {}", id.0)))?;
        let attempts = tasks.attempts(&tenant, task_id).await?.unwrap_or_default();
        Ok(JsonAnswer(ManualTaskView::new(&task, attempts)))
    }

    /// Run a failed task again
    ///
    /// As `POST /tasks/{id}/retry`: with `input`, it gets another one.
    #[oai(path = "/manual-tasks/:id/retry", method = "post", operation_id = "retry_manual_task")]
    async fn retry(
        &self,
        /// The task's number.
        id: Path<i64>,
        body: JsonBody<RetryBody, false>,
    ) -> Result<JsonAnswer<TaskView>, ApiError> {
        retry(self.0.tasks()?, id.0, &body.text).await
    }

    /// Discard a failed task
    ///
    /// Removes it for good, with its history.
    #[oai(path = "/manual-tasks/:id/discard", method = "post", operation_id = "discard_manual_task")]
    async fn discard(
        &self,
        /// The task's number.
        id: Path<i64>,
    ) -> Result<Discarded, ApiError> {
        match self.0.tasks()?.discard(&Tenant::default(), known_id(id.0)?).await? {
            DiscardOutcome::Discarded => Ok(Discarded::Gone),
            DiscardOutcome::NotFailed(status) => {
                Err(ApiError::conflict(format!("task {} is {}, not FAILED", id.0, status.as_str())))
            }
            DiscardOutcome::Unknown => Err(ApiError::unknown_task(id.0)),
        }
    }

    /// Run many failed tasks again
    ///
    /// Those with these `ids`, or those that pass the `filter`, newest first.
    #[oai(path = "/manual-tasks/retry", method = "post", operation_id = "retry_manual_tasks")]
    async fn retry_many(&self, body: JsonBody<SweepBody>) -> Result<JsonAnswer<SweepView>, ApiError> {
        Ok(JsonAnswer(sweep::retry(self.0.tasks()?, sweep::read(&body.text)?.of_failed()).await?))
    }

    /// Discard many failed tasks
    ///
    /// Those with these `ids`, or those that pass the `filter`, newest first.
    #[oai(path = "/manual-tasks/discard", method = "post", operation_id = "discard_manual_tasks")]
    async fn discard_many(&self, body: JsonBody<SweepBody>) -> Result<JsonAnswer<SweepView>, ApiError> {
        Ok(JsonAnswer(sweep::discard(self.0.tasks()?, sweep::read(&body.text)?.of_failed()).await?))
    }
}

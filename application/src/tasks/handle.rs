//! For Rust programs: submit a typed input, get a handle, wait for the typed result.

use std::time::Duration;

use domain::{Failure, Json, Status, Task, TaskId, TaskType, Tenant};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Instant;

use super::{Admission, CancelOutcome, InvalidField, LONGEST_WAIT, Submission, SubmitError, Tasks};
use crate::ports::StoreError;

/// A task that this program submitted.
#[derive(Clone)]
pub struct Handle {
    tasks: Tasks,
    tenant: Tenant,
    id: TaskId,
}

/// Why there is no result.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NoResult {
    /// It has not ended in the time given, and goes on.
    #[error("the task has not ended yet, it is {}", .0.as_str())]
    NotYet(Status),
    /// It failed.
    #[error("the task failed: {}: {}", .0.code, .0.message)]
    Failed(Failure),
    /// It was cancelled, or was not started in time.
    #[error("the task ended as {}", .0.as_str())]
    Ended(Status),
    /// Its result is not what was asked for.
    #[error("the task's result cannot be read: {0}")]
    Unreadable(String),
    /// It was deleted.
    #[error("the task is not there any more")]
    Gone,
    /// The store does not answer; the task goes on.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Tasks {
    /// Stores one task with its type's defaults.
    pub async fn start<I: Serialize + ?Sized>(
        &self,
        tenant: &Tenant,
        task_type: &str,
        input: &I,
    ) -> Result<Handle, SubmitError> {
        let invalid = |field, message| SubmitError::Invalid(vec![InvalidField { field, message }]);
        let task_type = TaskType::new(task_type).map_err(|error| invalid("type", error.to_string()))?;
        let input = Json::from_value(input).map_err(|error| invalid("input", error.to_string()))?;
        let admitted = self.submit(tenant, vec![Submission::new(task_type, input)]).await?;
        let task = admitted.first().and_then(Admission::task);
        let task = task.ok_or_else(|| StoreError::Corrupt("the store told no number for a task".into()))?;
        Ok(self.handle(tenant, task.id))
    }

    /// A task that was submitted in another way, such as in SQL.
    pub fn handle(&self, tenant: &Tenant, id: TaskId) -> Handle {
        Handle { tasks: self.clone(), tenant: tenant.clone(), id }
    }
}

impl Handle {
    /// Its number.
    pub fn id(&self) -> TaskId {
        self.id
    }

    /// As it stands; `None` when it was deleted.
    pub async fn read(&self) -> Result<Option<Task>, StoreError> {
        self.tasks.read(&self.tenant, self.id).await
    }

    /// Asks it to stop.
    pub async fn cancel(&self) -> Result<CancelOutcome, StoreError> {
        self.tasks.cancel(&self.tenant, self.id).await
    }

    /// Its result, waited for at most so long.
    pub async fn result<T: DeserializeOwned>(&self, patience: Duration) -> Result<T, NoResult> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let task = self.tasks.wait(&self.tenant, self.id, left.min(LONGEST_WAIT)).await?;
            let task = task.ok_or(NoResult::Gone)?;
            if task.status.is_terminal() || Instant::now() >= deadline {
                return result_of(task);
            }
        }
    }
}

fn result_of<T: DeserializeOwned>(task: Task) -> Result<T, NoResult> {
    match task.status {
        Status::Completed => {
            let result = task.result.map_or_else(|| "null".to_owned(), |result| result.as_str().to_owned());
            serde_json::from_str(&result).map_err(|error| NoResult::Unreadable(error.to_string()))
        }
        Status::Failed => Err(NoResult::Failed(
            task.error.unwrap_or_else(|| Failure::permanent("unknown", "no reason was kept")),
        )),
        Status::Cancelled | Status::Expired => Err(NoResult::Ended(task.status)),
        Status::Scheduled | Status::Pending | Status::Processing => Err(NoResult::NotYet(task.status)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        registry::{Output, TaskTypeSpec},
        testing::Product,
    };

    fn product() -> Product {
        Product::new([
            TaskTypeSpec::new("test.double", "Doubles.", |_, n: i64| async move { Output::of(&(2 * n)) }),
            TaskTypeSpec::new("test.fail", "Fails.", |_, (): ()| async move {
                Err(Failure::permanent("no_way", "it cannot be done"))
            }),
            TaskTypeSpec::new("test.wait", "Never ends.", |_, (): ()| async move {
                std::future::pending::<Result<Output, Failure>>().await
            }),
        ])
    }

    #[tokio::test(start_paused = true)]
    async fn a_handle_waits_for_the_typed_result_or_says_why_there_is_none() {
        let product = product();
        let (shutdown, worker) = product.worker(4);
        let (tasks, tenant) = (&product.tasks, Tenant::default());
        let minute = Duration::from_secs(60);

        let double = tasks.start(&tenant, "test.double", &21).await.expect("submitted");
        assert_eq!(double.result::<i64>(minute).await, Ok(42));
        let unreadable = double.result::<String>(minute).await;
        assert!(matches!(&unreadable, Err(NoResult::Unreadable(_))), "{unreadable:?}");

        let failing = tasks.start(&tenant, "test.fail", &()).await.expect("submitted");
        let failed = failing.result::<i64>(minute).await.expect_err("it fails");
        assert_eq!(failed.to_string(), "the task failed: no_way: it cannot be done");

        let endless = tasks.start(&tenant, "test.wait", &()).await.expect("submitted");
        assert_eq!(
            endless.result::<i64>(Duration::from_secs(1)).await,
            Err(NoResult::NotYet(Status::Processing))
        );
        endless.cancel().await.expect("cancelled");
        assert_eq!(endless.result::<i64>(minute).await, Err(NoResult::Ended(Status::Cancelled)));
        tasks.delete(&tenant, endless.id()).await.expect("deleted");
        assert_eq!(endless.result::<i64>(minute).await, Err(NoResult::Gone));

        let refused = tasks.start(&tenant, "test.double", "a text").await;
        assert!(matches!(refused, Err(SubmitError::Invalid(_))));
        shutdown.drain.cancel();
        worker.await.expect("no panic");
    }
}

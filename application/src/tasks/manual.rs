//! Manual handling: what failed for good waits here for a person, who runs it again (as it was, or with another input)
//! or discards it; one by one, or all that have something in common.

use domain::{Status, TaskId, Tenant, flow::is_batch};

use super::{LARGEST_PAGE, SubmitError, Tasks};
use crate::{
    ordering::announce_waiting,
    ports::{
        DiscardOutcome, FailureGroup, ListPage, Retry, RetryOutcome, Signal, StoreError, TaskFilter, Waiting,
    },
};

/// The most groups of failures that are shown.
pub const MOST_FAILURE_GROUPS: usize = 200;
/// The most tasks that one call over a filter touches.
pub const LARGEST_SWEEP: usize = 10_000;

/// What a call over a filter did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Tasks that it changed.
    pub changed: usize,
    /// Whether it stopped at its limit: there may be more.
    pub more: bool,
}

/// What is done with the tasks of a sweep.
#[derive(Debug, Clone, Copy)]
enum Handling {
    Retry,
    Discard,
}

impl Tasks {
    /// What waits for a person, by the code of the error and the task's type.
    pub async fn failures(&self, tenant: &Tenant) -> Result<Vec<FailureGroup>, StoreError> {
        self.store.failures(tenant, MOST_FAILURE_GROUPS).await
    }

    /// Runs an ended task again, as it was or with another input, which has to suit its type. Its budgets are whole again.
    pub async fn retry(&self, tenant: &Tenant, task: Retry) -> Result<RetryOutcome, SubmitError> {
        if let Some(input) = &task.input {
            let Some(known) = self.read(tenant, task.id).await? else { return Ok(RetryOutcome::Unknown) };
            self.check_input(&known.task_type, input)?;
        }
        let id = task.id;
        let outcomes = self.store.retry(tenant, &[task]).await?;
        self.announce_retries(&outcomes).await;
        let outcome = outcomes.into_iter().next().unwrap_or(RetryOutcome::Unknown);
        // With a batch, those of its items that did not complete.
        if let RetryOutcome::WaitingForOthers(_) = outcome
            && self.read(tenant, id).await?.is_some_and(|task| is_batch(&task.task_type))
        {
            self.retry_batch(tenant, id).await?;
        }
        Ok(outcome)
    }

    /// Runs these tasks again, as they were; one outcome per id.
    pub async fn retry_each(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<RetryOutcome>, StoreError> {
        let retries: Vec<_> = ids.iter().map(|id| Retry { id: *id, input: None }).collect();
        let outcomes = self.store.retry(tenant, &retries).await?;
        self.announce_retries(&outcomes).await;
        Ok(outcomes)
    }

    /// Runs all tasks again that pass the filter, newest first, at most `limit` (and [`LARGEST_SWEEP`]). Of the states
    /// that it names only FAILED, CANCELLED and EXPIRED count; where it names none, FAILED.
    pub async fn retry_matching(
        &self,
        tenant: &Tenant,
        filter: &TaskFilter,
        limit: usize,
    ) -> Result<Swept, StoreError> {
        let again = |status: &Status| matches!(status, Status::Failed | Status::Cancelled | Status::Expired);
        let named = filter.statuses.is_empty().then_some(Status::Failed);
        let statuses: Vec<_> = filter.statuses.iter().copied().chain(named).filter(again).collect();
        if statuses.is_empty() {
            return Ok(Swept::default());
        }
        self.sweep(tenant, &TaskFilter { statuses, ..filter.clone() }, limit, Handling::Retry).await
    }

    /// Removes a failed task for good.
    pub async fn discard(&self, tenant: &Tenant, id: TaskId) -> Result<DiscardOutcome, StoreError> {
        Ok(self.store.discard(tenant, &[id]).await?.pop().unwrap_or(DiscardOutcome::Unknown))
    }

    /// Removes these failed tasks for good; one outcome per id.
    pub async fn discard_each(
        &self,
        tenant: &Tenant,
        ids: &[TaskId],
    ) -> Result<Vec<DiscardOutcome>, StoreError> {
        self.store.discard(tenant, ids).await
    }

    /// Removes all failed tasks that pass the filter, newest first, at most `limit` (and [`LARGEST_SWEEP`]).
    pub async fn discard_matching(
        &self,
        tenant: &Tenant,
        filter: &TaskFilter,
        limit: usize,
    ) -> Result<Swept, StoreError> {
        let filter = TaskFilter { statuses: vec![Status::Failed], ..filter.clone() };
        self.sweep(tenant, &filter, limit, Handling::Discard).await
    }

    /// Handles the tasks that pass the filter, page by page from the newest on. It answers how many it
    /// changed; what others changed meanwhile is not counted.
    async fn sweep(
        &self,
        tenant: &Tenant,
        filter: &TaskFilter,
        limit: usize,
        handling: Handling,
    ) -> Result<Swept, StoreError> {
        let (mut left, mut before) = (limit.min(LARGEST_SWEEP), None);
        let mut swept = Swept::default();
        while left > 0 {
            let page = ListPage { before, limit: left.min(LARGEST_PAGE) };
            let found = self.store.list(tenant, filter, page).await?;
            let ids: Vec<TaskId> = found.iter().map(|task| task.id).collect();
            if !ids.is_empty() {
                swept.changed += self.handle_each(tenant, &ids, handling).await?;
            }
            if ids.len() < page.limit {
                return Ok(swept);
            }
            left -= ids.len();
            before = ids.last().copied();
        }
        swept.more = !self.store.list(tenant, filter, ListPage { before, limit: 1 }).await?.is_empty();
        Ok(swept)
    }

    /// Answers how many tasks were changed.
    async fn handle_each(
        &self,
        tenant: &Tenant,
        ids: &[TaskId],
        handling: Handling,
    ) -> Result<usize, StoreError> {
        match handling {
            Handling::Retry => {
                let outcomes = self.retry_each(tenant, ids).await?;
                let back = |outcome: &&RetryOutcome| {
                    matches!(outcome, RetryOutcome::Waiting(..) | RetryOutcome::WaitingForOthers(_))
                };
                Ok(outcomes.iter().filter(back).count())
            }
            Handling::Discard => {
                let outcomes = self.store.discard(tenant, ids).await?;
                Ok(outcomes.iter().filter(|outcome| **outcome == DiscardOutcome::Discarded).count())
            }
        }
    }

    pub(super) async fn announce_retries(&self, outcomes: &[RetryOutcome]) {
        let again: Vec<(&Waiting, u32)> = outcomes
            .iter()
            .filter_map(|outcome| match outcome {
                RetryOutcome::Waiting(place, attempt) => Some((place, *attempt)),
                RetryOutcome::WaitingForOthers(_)
                | RetryOutcome::NotEnded(_)
                | RetryOutcome::Completed
                | RetryOutcome::Unknown => None,
            })
            .collect();
        let news: Vec<Signal> = again
            .iter()
            .map(|(place, attempt)| Signal::State {
                task: place.id,
                attempt: *attempt,
                status: Status::Pending,
            })
            .collect();
        if !news.is_empty() {
            self.signals.publish(&news).await;
        }
        let waiting: Vec<Waiting> = again.into_iter().map(|(place, _)| place.clone()).collect();
        announce_waiting(self.order.as_deref(), self.signals.as_ref(), &waiting).await;
    }
}

//! The batch lane is not spoilt: it is passed on.

use std::time::Duration;

use application::ports::{Gather, LaneEntry, LaneStore, Parked, ProviderBatch, StoreError};
use async_trait::async_trait;
use domain::{TaskId, Timestamp, ai::ProviderName};

use super::store::BrokenStore;

#[async_trait]
impl LaneStore for BrokenStore {
    async fn park(&self, request: &Parked) -> Result<(), StoreError> {
        self.inner().park(request).await
    }

    async fn lane_entry(&self, task: TaskId) -> Result<(Option<LaneEntry>, Timestamp), StoreError> {
        self.inner().lane_entry(task).await
    }

    async fn withdraw_request(&self, task: TaskId) -> Result<(), StoreError> {
        self.inner().withdraw_request(task).await
    }

    async fn gather(&self, provider: &ProviderName, gather: Gather) -> Result<bool, StoreError> {
        self.inner().gather(provider, gather).await
    }

    async fn batches_to_look_at(
        &self,
        provider: &ProviderName,
        pause: Duration,
        limit: usize,
    ) -> Result<Vec<ProviderBatch>, StoreError> {
        self.inner().batches_to_look_at(provider, pause, limit).await
    }

    async fn requests_of(&self, batch: i64) -> Result<Vec<(TaskId, String)>, StoreError> {
        self.inner().requests_of(batch).await
    }

    async fn note_batch(&self, batch: &ProviderBatch) -> Result<bool, StoreError> {
        self.inner().note_batch(batch).await
    }

    async fn deliver(&self, batch: i64, answers: &[(TaskId, String)]) -> Result<usize, StoreError> {
        self.inner().deliver(batch, answers).await
    }

    async fn close_batch(&self, batch: i64, unanswered: &str) -> Result<(), StoreError> {
        self.inner().close_batch(batch, unanswered).await
    }

    async fn forget_requests(&self, limit: usize) -> Result<usize, StoreError> {
        self.inner().forget_requests(limit).await
    }
}

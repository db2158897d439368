//! The batch lane: what waits for a provider's Batch API, and that API itself.

use std::time::Duration;

use async_trait::async_trait;
use domain::{TaskId, Timestamp, ai::ProviderName};

use super::{FinishReason, GenerationRequest, GeneratorError, StoreError, Usage};

/// A task's request, on its way into a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parked {
    /// Whose request.
    pub task: TaskId,
    /// Who is to be asked.
    pub provider: ProviderName,
    /// The model's name there.
    pub model: String,
    /// What is asked, as [`BatchApi::body`] has it.
    pub body: String,
}

/// How a task's request stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneEntry {
    /// The request.
    pub request: Parked,
    /// What came of it, as [`BatchApi::fetch`] had it.
    pub answer: Option<String>,
}

/// Which requests make a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gather {
    /// Where there are fewer than may be in one: only once the oldest has waited for so long.
    pub patience: Duration,
    /// So many at most.
    pub most_requests: usize,
    /// So many bytes of bodies at most; one request is taken in any case.
    pub most_bytes: usize,
}

/// A batch on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderBatch {
    /// Its number here.
    pub id: i64,
    /// When it was made.
    pub made_at: Timestamp,
    /// What the provider calls the file of its requests, once that is there.
    pub file: Option<String>,
    /// What the provider calls it, once it has begun.
    pub remote: Option<String>,
}

impl ProviderBatch {
    /// What it can be found by at the provider: no other batch of any installation has it.
    pub fn mark(&self) -> String {
        format!("task-runner-{}-{}", self.made_at.timestamp_micros(), self.id)
    }
}

/// Where the batch lane is kept.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait LaneStore: Send + Sync {
    /// Keeps a task's request until a batch takes it, instead of an older one of that task.
    async fn park(&self, request: &Parked) -> Result<(), StoreError>;

    /// A task's request as it stands, and the store's time.
    async fn lane_entry(&self, task: TaskId) -> Result<(Option<LaneEntry>, Timestamp), StoreError>;

    /// Takes a task's request out of the lane. An answer that comes later is dropped.
    async fn withdraw_request(&self, task: TaskId) -> Result<(), StoreError>;

    /// Makes a batch of requests of tasks that are SCHEDULED, the oldest first; answers whether there is one more. Of
    /// several callers at the same time no two take the same request.
    async fn gather(&self, provider: &ProviderName, gather: Gather) -> Result<bool, StoreError>;

    /// Batches that nobody has looked at for `pause`, at most `limit`; they count as looked at now.
    async fn batches_to_look_at(
        &self,
        provider: &ProviderName,
        pause: Duration,
        limit: usize,
    ) -> Result<Vec<ProviderBatch>, StoreError>;

    /// The requests of a batch: task and body, in the order of tasks.
    async fn requests_of(&self, batch: i64) -> Result<Vec<(TaskId, String)>, StoreError>;

    /// Puts down what the provider calls a batch and its file; `false` where something else stands there already, or the batch
    /// is over.
    async fn note_batch(&self, batch: &ProviderBatch) -> Result<bool, StoreError>;

    /// Keeps answers to requests of a batch; tasks that are SCHEDULED come due. Answers how many were waited for.
    async fn deliver(&self, batch: i64, answers: &[(TaskId, String)]) -> Result<usize, StoreError>;

    /// A batch is over. Requests without an answer get this one, and their tasks come due.
    async fn close_batch(&self, batch: i64, unanswered: &str) -> Result<(), StoreError>;

    /// Forgets requests whose tasks have ended, at most `limit`; answers how many.
    async fn forget_requests(&self, limit: usize) -> Result<usize, StoreError>;
}

/// How a provider's batch stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BatchState {
    /// It is worked on.
    UnderWay,
    /// It is over: the files with what came of the requests; none where it was refused as a whole.
    Over(Vec<String>),
}

/// What came of one request of a batch.
#[derive(Debug, Clone, PartialEq)]
pub enum BatchAnswer {
    /// The model has answered.
    Said {
        /// The text.
        text: String,
        /// Tools that it calls, as OpenAI's API has them.
        tool_calls: Vec<serde_json::Value>,
        /// Why it stopped.
        reason: FinishReason,
        /// What was used.
        usage: Usage,
        /// The model that answered, as the provider names it.
        model: Option<String>,
    },
    /// It has not.
    Refused(GeneratorError),
}

/// A provider's Batch API.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait BatchApi: Send + Sync {
    /// What is asked, as a line of a batch has it.
    fn body(&self, request: &GenerationRequest) -> String;

    /// Keeps a file of requests there; answers what it is called.
    async fn upload(&self, name: &str, requests: &[(TaskId, String)]) -> Result<String, GeneratorError>;

    /// Begins a batch that can be found by a mark; answers what it is called.
    async fn begin(&self, file: &str, mark: &str) -> Result<String, GeneratorError>;

    /// The batch with this mark, where there is one among the latest.
    async fn find(&self, mark: &str) -> Result<Option<String>, GeneratorError>;

    /// How a batch stands.
    async fn look(&self, remote: &str) -> Result<BatchState, GeneratorError>;

    /// What stands in a file of answers, for each task.
    async fn fetch(&self, file: &str) -> Result<Vec<(TaskId, String)>, GeneratorError>;

    /// Reads one of these.
    fn read(&self, answer: &str) -> BatchAnswer;
}

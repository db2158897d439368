//! The operations, by resource.

mod batches;
mod manual;
mod parameters;
mod queues;
mod schedules;
mod system;
mod tasks;
mod usage;
mod workers;

use std::sync::Arc;

use application::{fleet::Workers, providers::Budgets, queues::Queues, schedules::Schedules, tasks::Tasks};
use poem_openapi::Tags;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

pub(crate) use self::{
    batches::BatchesApi, manual::ManualApi, queues::QueuesApi, schedules::SchedulesApi, system::SystemApi,
    tasks::TasksApi, usage::UsageApi, workers::WorkersApi,
};
use crate::{
    ApiConfig,
    problem::{ApiError, Problem, ProblemJson},
};

/// The use cases that the operations stand for.
#[derive(Clone)]
pub struct UseCases {
    /// What clients do with tasks.
    pub tasks: Tasks,
    /// What they do with schedules.
    pub schedules: Schedules,
    /// What operators do with queues.
    pub queues: Queues,
    /// What those do with workers who run the installation.
    pub workers: Workers,
    /// What is left of the budgets.
    pub budgets: Budgets,
}

/// What the operations share.
#[derive(Clone)]
pub(crate) struct Context {
    /// `None` only where the document is generated.
    pub(crate) use_cases: Option<UseCases>,
    pub(crate) config: ApiConfig,
    /// Ends event streams when the server stops.
    pub(crate) stopping: CancellationToken,
    /// Places for batches that lie on the disk.
    pub(crate) spools: Arc<Semaphore>,
}

/// How many batches may lie on the disk at once, on their way into the store.
const SPOOLS: usize = 8;

impl Context {
    /// What a server has when it starts.
    pub(crate) fn new(use_cases: Option<UseCases>, config: ApiConfig, stopping: CancellationToken) -> Self {
        Self { use_cases, config, stopping, spools: Arc::new(Semaphore::new(SPOOLS)) }
    }

    fn tasks(&self) -> Result<&Tasks, ApiError> {
        Ok(&self.use_cases()?.tasks)
    }

    fn schedules(&self) -> Result<&Schedules, ApiError> {
        Ok(&self.use_cases()?.schedules)
    }

    fn queues(&self) -> Result<&Queues, ApiError> {
        Ok(&self.use_cases()?.queues)
    }

    fn workers(&self) -> Result<&Workers, ApiError> {
        Ok(&self.use_cases()?.workers)
    }

    fn use_cases(&self) -> Result<&UseCases, ApiError> {
        let detail = "this server has no task store";
        let problem = || ProblemJson(Problem::new(poem::http::StatusCode::SERVICE_UNAVAILABLE, detail));
        self.use_cases.as_ref().ok_or_else(|| ApiError::Unavailable(problem(), 2))
    }
}

#[derive(Tags)]
enum Tag {
    /// Submit tasks, watch them, read what they came to.
    Tasks,
    /// Many tasks that are followed as one.
    Batches,
    /// What failed for good waits here for a person: run it again, as it was or with another input, or discard it.
    #[oai(rename = "Manual handling")]
    Manual,
    /// Tasks that submit themselves, by a cron expression or every so often.
    Schedules,
    /// Where tasks wait: how each queue fares, and letting it stand still, go on, or be emptied.
    Queues,
    /// Who runs tasks, and what they are told to do.
    Workers,
    /// What calls of models used and cost.
    Usage,
    /// How the product fares.
    System,
}

//! Workers as those see and steer them who run the installation.

use std::time::Duration;

use async_trait::async_trait;
use domain::{Departure, Json, QueueName, Timestamp, WorkerId, WorkerName};

use super::StoreError;

/// The most workers that a store lists.
pub const MOST_WORKERS: usize = 1000;

/// The store's side that worker processes report to, and take their orders from.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait FleetStore: Send + Sync {
    /// What is known of workers, the latest registration first, at most [`MOST_WORKERS`].
    async fn workers(&self, wanted: Wanted) -> Result<Fleet, StoreError>;

    /// Keeps a command for each of these workers; one number per worker, in order.
    async fn command(&self, workers: &[WorkerId], command: &str) -> Result<Vec<CommandId>, StoreError>;

    /// Those of these commands that have been answered.
    async fn answers(&self, commands: &[CommandId]) -> Result<Vec<CommandAnswer>, StoreError>;

    /// A worker's report, `None` where nothing is new, with its answers to commands; answers the commands that it has
    /// not answered, oldest first. From a worker whose registration has ended nothing is kept, and it gets none.
    /// Answering a command again changes nothing, and only the worker that it was given to can answer it.
    async fn report(
        &self,
        worker: WorkerId,
        report: Option<WorkerReport>,
        answers: &[CommandAnswer],
    ) -> Result<Vec<GivenCommand>, StoreError>;

    /// Removes commands, and reports of workers that are gone, from before `age` ago; at most `limit` of each. Answers
    /// how many.
    async fn forget_reports(&self, age: Duration, limit: usize) -> Result<usize, StoreError>;
}

/// Which workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// Those whose registration has not ended, and of the latest others those that were heard of within this long.
    Recent(Duration),
    /// This one, whatever became of it.
    One(WorkerId),
}

/// What is known of some workers.
#[derive(Debug, Clone, PartialEq)]
pub struct Fleet {
    /// The store's clock.
    pub now: Timestamp,
    /// The workers.
    pub workers: Vec<WorkerRecord>,
}

/// One start of a worker process.
#[derive(Debug, Clone, PartialEq)]
pub struct WorkerRecord {
    /// Its number.
    pub id: WorkerId,
    /// What people call it.
    pub name: WorkerName,
    /// What it serves; empty means every queue.
    pub queues: Vec<QueueName>,
    /// What it does not serve, whatever else.
    pub except: Vec<QueueName>,
    /// Its slots.
    pub concurrency: usize,
    /// How long it counts as alive after a heartbeat.
    pub lease: Duration,
    /// When it registered.
    pub registered_at: Timestamp,
    /// Its last heartbeat.
    pub last_heartbeat: Timestamp,
    /// How its registration ended.
    pub departure: Option<Departure>,
    /// What it said of itself when it registered.
    pub about: Option<Json>,
    /// What it last reported, and when.
    pub report: Option<(Timestamp, Json)>,
}

/// What a worker says of itself now and then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerReport {
    /// What it serves; empty means every queue.
    pub queues: Vec<QueueName>,
    /// What it does not serve, whatever else.
    pub except: Vec<QueueName>,
    /// Its slots.
    pub concurrency: usize,
    /// The rest, which a store does not read: [`crate::fleet::Standing`].
    pub standing: Json,
}

/// A command's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId(pub i64);

/// A command in its worker's hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenCommand {
    /// Its number.
    pub id: CommandId,
    /// As [`domain::Command`] is written; a newer process may have written one that is not known here.
    pub command: String,
}

/// What a worker made of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandAnswer {
    /// Which.
    pub id: CommandId,
    /// Whether it did as it was told.
    pub done: bool,
    /// In words.
    pub message: String,
}

//! News between processes: best effort, never the truth. Whoever listens also looks at the store now and then.

use async_trait::async_trait;
use domain::{Progress, QueueName, Status, TaskId, WorkerId};
use tokio::sync::broadcast;

use super::ChunkRecord;

/// One piece of news.
#[derive(Debug, Clone, PartialEq)]
pub enum Signal {
    /// Tasks wait in these queues: workers look.
    Work {
        /// Where.
        queues: Vec<QueueName>,
        /// All that is new there, where it is little and one worker alone hears of it: that one may claim these at once.
        tasks: Vec<TaskId>,
    },
    /// Somebody asked to stop these: their worker looks.
    Cancel(Vec<TaskId>),
    /// Somebody told these workers to do something: they look.
    Command(Vec<WorkerId>),
    /// A task's state changed.
    State {
        /// Which task.
        task: TaskId,
        /// The attempt that this is about.
        attempt: u32,
        /// Where it stands now.
        status: Status,
    },
    /// A running task came on.
    Progress {
        /// Which task.
        task: TaskId,
        /// The running attempt.
        attempt: u32,
        /// How far.
        progress: Progress,
    },
    /// Live output.
    Chunk(ChunkRecord),
}

impl Signal {
    /// Tasks wait in these queues, whichever.
    pub fn work(queues: Vec<QueueName>) -> Self {
        Self::Work { queues, tasks: Vec::new() }
    }
}

/// Signals from here on. A receiver that falls behind is told so (`Lagged`) and then looks at the store.
pub type SignalStream = broadcast::Receiver<Signal>;

/// The bus.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
#[async_trait]
pub trait Signals: Send + Sync {
    /// Sends news to every listener in every process. Failures are logged, not answered: the store has the truth.
    async fn publish(&self, signals: &[Signal]);

    /// `Work`, `Cancel` and `Command`: what workers listen to.
    fn work(&self) -> SignalStream;

    /// `State`, `Progress` and `Chunk` of one task. Costs one subscription however many listen.
    async fn task(&self, id: TaskId) -> SignalStream;

    /// Whether news from other processes arrive at the moment; if not, listeners look at the store more often.
    fn connected(&self) -> bool;
}

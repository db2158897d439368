//! What the use cases ask of the outside world.
//!
//! Ports are few, verb-shaped, object-safe and batch-shaped: one call carries a whole change, and no transaction
//! crosses one. The store is one thing seen from several sides: clients ([`TaskStore`]), workers ([`WorkStore`]), the
//! upkeep that every process does ([`UpkeepStore`]), schedules ([`ScheduleStore`]), queues ([`QueueStore`]), providers' quotas
//! ([`QuotaStore`]) and those who run the workers ([`FleetStore`]). `tests/contract` holds every store to the promises that are written here. Where others
//! write into the same database, there is an [`InboxStore`] as well.

mod fleet;
mod flows;
mod generate;
mod inbox;
mod lane;
mod order;
mod outbound;
mod queues;
mod quotas;
mod schedules;
mod signals;
mod store;
mod upkeep;

pub use domain::ai::Usage;
pub use fleet::{
    CommandAnswer, CommandId, Fleet, FleetStore, GivenCommand, MOST_WORKERS, Wanted, WorkerRecord,
    WorkerReport,
};
pub use flows::{BatchItems, FlowStored, FollowedUp, Needed, NewNeed, NewNode, links, open_needs};
pub use generate::{
    Answering, Books, CallBook, Chunk, Embedder, EmbeddingRequest, Embeddings, FinishReason, Generation,
    GenerationEvent, GenerationRequest, GeneratorError, Left, TextGenerator,
};
pub use inbox::{Accepted, InboxStore, Letter, TakenIn};
pub use lane::{BatchAnswer, BatchApi, BatchState, Gather, LaneEntry, LaneStore, Parked, ProviderBatch};
pub use order::{Order, Popped, Waiting};
pub use outbound::{Delivered, NotDelivered, Outbound, Post};
pub use queues::{Purged, QueueStore, RecentRuns, RunRecord};
pub use quotas::{Metered, QuotaStore, take_steps};
pub use schedules::{DueSchedule, Fired, Firing, FiringRecord, Put, ScheduleStore};
pub use signals::{Signal, SignalStream, Signals};
pub use store::{
    Applied, CancelOutcome, ChunkRecord, Claim, ClaimedTask, DeleteOutcome, DiscardOutcome, FailureGroup,
    Health, LimitedClaim, LimitedTasks, ListPage, Patience, ProgressRecord, QueueCounts, Receipt,
    Reprioritised, Retry, RetryOutcome, Settlement, Store, StoreError, Submitted, TaskFilter, TaskStore,
    WorkStore, WorkerProfile,
};
pub use upkeep::{Orphan, Overdue, Overrunning, Removal, UpkeepStore, Walk};

/// Chance, as an argument: uniform numbers in `[0, 1)`.
#[cfg_attr(any(test, feature = "mocks"), mockall::automock)]
pub trait Chance: Send + Sync {
    /// The next number.
    fn next(&self) -> f64;
}

#[cfg(any(test, feature = "mocks"))]
pub use self::{
    fleet::MockFleetStore, generate::MockEmbedder, generate::MockTextGenerator, inbox::MockInboxStore,
    order::MockOrder, outbound::MockOutbound, queues::MockQueueStore, quotas::MockQuotaStore,
    schedules::MockScheduleStore, signals::MockSignals, store::MockTaskStore, store::MockWorkStore,
    upkeep::MockUpkeepStore,
};

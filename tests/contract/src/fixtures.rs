//! Short words for the tests: tasks, workers, and the usual steps of a life.

use std::{collections::BTreeMap, time::Duration};

use application::ports::{
    Applied, Claim, ClaimedTask, ListPage, Patience, QueueCounts, Receipt, Settlement, Store, Submitted,
    TaskFilter, WorkerProfile,
};
use domain::{
    AttemptOutcome, Change, Counters, End, Event, Failure, Json, Limits, NewTask, OwnTerms, Priority,
    QueueName, Start, State, Task, TaskId, TaskType, Tenant, Timestamp, WorkerId, WorkerName, decide,
};

/// The lease of [`worker`].
pub const LEASE: Duration = Duration::from_secs(12);

/// A second, for short.
pub const SECOND: Duration = Duration::from_secs(1);

/// A queue.
pub fn queue(name: &str) -> QueueName {
    QueueName::new(name).expect("a valid queue name")
}

/// A tenant.
pub fn tenant(name: &str) -> Tenant {
    Tenant::new(name).expect("a valid tenant")
}

/// A JSON document.
pub fn json(text: &str) -> Json {
    Json::parse(text).expect("valid JSON")
}

/// A priority.
pub fn priority(value: i64) -> Priority {
    Priority::new(value).expect("a priority from 0 to 9")
}

/// A plain task of the default tenant in the queue `q`; change what matters.
pub fn task() -> NewTask {
    NewTask {
        tenant: Tenant::default(),
        task_type: TaskType::new("demo.echo").expect("a valid type"),
        queue: queue("q"),
        priority: Priority::default(),
        input: json(r#"{"n":1}"#),
        metadata: None,
        start: Start::Now,
        expires_at: None,
        limits: Limits::default(),
        own: OwnTerms::default(),
        idempotency: None,
        unique: None,
        share: None,
    }
}

/// A plain task that starts later.
pub fn task_after(wait: Duration) -> NewTask {
    NewTask { start: Start::After(wait), ..task() }
}

/// A plain task in a queue with a priority.
pub fn task_in(queue_name: &str, urgency: i64) -> NewTask {
    NewTask { queue: queue(queue_name), priority: priority(urgency), ..task() }
}

/// Submits tasks that must all be new.
pub async fn receipts(store: &dyn Store, tasks: &[NewTask]) -> Vec<Receipt> {
    let outcomes = store.submit(tasks).await.expect("submit");
    let receipt = |outcome| match outcome {
        Submitted::New(receipt) => receipt,
        other => panic!("a new task, not {other:?}"),
    };
    outcomes.into_iter().map(receipt).collect()
}

/// Submits tasks and answers their ids.
pub async fn submit(store: &dyn Store, tasks: &[NewTask]) -> Vec<TaskId> {
    receipts(store, tasks).await.into_iter().map(|receipt| receipt.id).collect()
}

/// Submits one task.
pub async fn submit_one(store: &dyn Store, task: NewTask) -> TaskId {
    submit(store, &[task]).await[0]
}

/// Submits `n` plain tasks.
pub async fn submit_many(store: &dyn Store, n: usize) -> Vec<TaskId> {
    submit(store, &vec![task(); n]).await
}

/// A task of the default tenant, if it is there.
pub async fn find(store: &dyn Store, id: TaskId) -> Option<Task> {
    store.read(&Tenant::default(), &[id]).await.expect("read").pop()
}

/// A task of the default tenant that must be there.
pub async fn read(store: &dyn Store, id: TaskId) -> Task {
    find(store, id).await.unwrap_or_else(|| panic!("task {id} is there"))
}

/// The store's clock.
pub async fn now(store: &dyn Store) -> Timestamp {
    store.ping().await.expect("ping").now
}

/// A worker for every queue.
pub fn profile(name: &str) -> WorkerProfile {
    WorkerProfile {
        name: WorkerName::new(name).expect("a valid worker name"),
        queues: Vec::new(),
        except: Vec::new(),
        concurrency: 10,
        lease: LEASE,
        about: None,
    }
}

/// Registers a worker named `w`.
pub async fn worker(store: &dyn Store) -> WorkerId {
    store.register(&profile("w")).await.expect("register")
}

/// Claims by ids.
pub async fn claim(store: &dyn Store, worker: WorkerId, ids: &[TaskId]) -> Vec<ClaimedTask> {
    store.claim(worker, &Claim::Ids(ids.to_vec())).await.expect("claim")
}

/// Claims one task that must be claimable.
pub async fn start(store: &dyn Store, worker: WorkerId, id: TaskId) -> ClaimedTask {
    let mut claimed = claim(store, worker, &[id]).await;
    assert_eq!(claimed.len(), 1, "task {id} can be claimed");
    claimed.remove(0)
}

/// Submits and claims a plain task.
pub async fn running(store: &dyn Store, worker: WorkerId) -> ClaimedTask {
    let id = submit_one(store, task()).await;
    start(store, worker, id).await
}

/// Claims the next from queues with limits.
pub async fn claim_next(
    store: &dyn Store,
    worker: WorkerId,
    queues: &[(&str, usize)],
    limit: usize,
) -> Vec<ClaimedTask> {
    let queues = queues.iter().map(|(name, most)| (queue(name), *most)).collect();
    store.claim(worker, &Claim::Next { queues, limit, patience: Patience::Any }).await.expect("claim")
}

/// The ids of claimed tasks, as answered.
pub fn ids(claimed: &[ClaimedTask]) -> Vec<TaskId> {
    claimed.iter().map(|task| task.id).collect()
}

/// The ids of claimed tasks, ascending.
pub fn sorted_ids(claimed: &[ClaimedTask]) -> Vec<TaskId> {
    let mut ids = ids(claimed);
    ids.sort_unstable();
    ids
}

/// A settlement of a claimed task by an event that the domain decides.
pub fn by_event(claimed: &ClaimedTask, cancel_requested: bool, event: Event<'_>) -> Settlement {
    let change = decide(State::Processing { cancel_requested }, claimed.counters, event).expect("allowed");
    settlement(claimed, cancel_requested, change)
}

/// A settlement with a given change and no result.
pub fn settlement(claimed: &ClaimedTask, knew_of_cancel: bool, change: Change) -> Settlement {
    Settlement {
        task: claimed.id,
        attempt: claimed.counters.attempt,
        change,
        result: None,
        details: None,
        calls: Vec::new(),
        knew_of_cancel,
    }
}

/// Success with a result.
pub fn success(claimed: &ClaimedTask, result: &str) -> Settlement {
    Settlement { result: Some(json(result)), ..by_event(claimed, false, Event::Succeed) }
}

/// A failure that ends the task.
pub fn failure(claimed: &ClaimedTask, failure: Failure) -> Settlement {
    let counters = Counters { failures: claimed.counters.failures + 1, ..claimed.counters };
    settlement(claimed, false, Change::Finish { end: End::Failed, counters, error: Some(failure) })
}

/// A failure that is tried again after a while.
pub fn retry(claimed: &ClaimedTask, after: Duration) -> Settlement {
    let change = Change::Wait {
        after,
        counters: Counters { failures: claimed.counters.failures + 1, ..claimed.counters },
        outcome: AttemptOutcome::Failed,
        error: Some(Failure::transient("busy", "the server is busy")),
    };
    settlement(claimed, false, change)
}

/// A release by a worker that drains.
pub fn release(claimed: &ClaimedTask) -> Settlement {
    by_event(claimed, false, Event::Release)
}

/// Settles one and answers what became of it.
pub async fn settle(store: &dyn Store, worker: WorkerId, settlement: Settlement) -> Applied {
    let answers = store.settle(worker, &[settlement]).await.expect("settle");
    assert_eq!(answers.len(), 1, "one answer per settlement");
    answers[0]
}

/// Settles one that must apply.
pub async fn settled(store: &dyn Store, worker: WorkerId, settlement: Settlement) {
    assert_eq!(settle(store, worker, settlement).await, Applied::Yes);
}

/// Declares a worker dead, as the upkeep does; its lease must have run out.
pub async fn bury(store: &dyn Store, worker: WorkerId) {
    let overdue = store.overdue().await.expect("overdue");
    let seen = overdue.iter().find(|overdue| overdue.worker == worker).expect("the worker is overdue");
    assert!(store.bury(seen).await.expect("bury"));
}

/// Every task of a tenant, newest first, by pages.
pub async fn everything(store: &dyn Store, tenant: &Tenant) -> Vec<Task> {
    let mut tasks: Vec<Task> = Vec::new();
    loop {
        let page = ListPage { before: tasks.last().map(|task| task.id), limit: 100 };
        let more = store.list(tenant, &TaskFilter::default(), page).await.expect("list");
        if more.is_empty() {
            return tasks;
        }
        tasks.extend(more);
    }
}

/// The counts as a list of every task gives them.
pub async fn recount(store: &dyn Store, tenant: &Tenant) -> Vec<QueueCounts> {
    let mut counts = BTreeMap::new();
    for task in everything(store, tenant).await {
        *counts.entry((task.queue, task.status)).or_default() += 1;
    }
    counts.into_iter().map(|((queue, status), count)| QueueCounts { queue, status, count }).collect()
}

/// The counts must be what a recount gives.
pub async fn assert_counts(store: &dyn Store, tenant: &Tenant) {
    assert_eq!(
        store.counts(tenant).await.expect("counts"),
        recount(store, tenant).await,
        "counts of {tenant}"
    );
}

/// Code and message of a failure: what is kept for clients.
pub fn told(failure: &Option<Failure>) -> Option<(&str, &str)> {
    failure.as_ref().map(|failure| (failure.code.as_str(), failure.message.as_str()))
}

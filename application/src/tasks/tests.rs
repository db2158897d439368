//! The clients' use cases against mocked ports.

use std::{sync::Arc, time::Duration};

use chrono::DateTime;
use domain::{
    Json, Limits, QueueName, Rank, Routes, Start, Status, Task, TaskId, TaskType, Tenant, Timestamp, Unique,
    UniqueKey,
};
use serde::de::IgnoredAny;

use super::{Admission, Submission, SubmitError, Swept, Tasks};
use crate::{
    in_process::InProcessSignals,
    memory::MemoryStore,
    ports::{
        CancelOutcome, MockOrder, MockSignals, MockTaskStore, QueueCounts, Receipt, Retry, RetryOutcome,
        Signal, StoreError, Submitted, TaskFilter, Waiting,
    },
    registry::{Output, Registry, TaskTypeSpec},
};

fn now() -> Timestamp {
    DateTime::from_timestamp(1_800_000_000, 0).expect("a moment")
}

fn registry() -> Arc<Registry> {
    let noop = TaskTypeSpec::new("demo.noop", "Nothing.", |_, _: IgnoredAny| async { Output::of(&()) });
    let number =
        TaskTypeSpec::new("math.square", "Squares.", |_, x: f64| async move { Output::of(&(x * x)) })
            .limits(Limits { max_attempts: 2, ..Limits::default() });
    Arc::new(Registry::new([noop, number]).expect("distinct types"))
}

fn tasks(store: MockTaskStore, order: Option<MockOrder>, signals: MockSignals) -> Tasks {
    let order = order.map(|order| Arc::new(order) as _);
    Tasks::new(Arc::new(store), order, Arc::new(signals), registry(), Arc::new(Routes::default()))
}

/// A store that takes everything and numbers it from 1.
fn taking() -> MockTaskStore {
    let mut store = MockTaskStore::new();
    store.expect_submit().returning(|tasks| {
        let receipt = |(i, task): (usize, &domain::NewTask)| Receipt {
            id: TaskId(i as i64 + 1),
            rank: Rank(i as i64 + 1),
            created_at: now(),
            run_at: match task.start {
                Start::Now => None,
                Start::At(at) => Some(at),
                Start::After(wait) => Some(now() + wait),
            },
        };
        Ok(tasks.iter().enumerate().map(receipt).map(Submitted::New).collect())
    });
    store
}

fn silent() -> MockSignals {
    let mut signals = MockSignals::new();
    signals.expect_publish().returning(|_| ());
    signals
}

/// The tasks of submissions of which each stored one.
fn created(submitted: Result<Vec<Admission>, SubmitError>) -> Vec<Task> {
    let created = |admission| match admission {
        Admission::Created(task) => task,
        other => panic!("nothing was stored: {other:?}"),
    };
    submitted.expect("submitted").into_iter().map(created).collect()
}

fn noop() -> Submission {
    Submission::new(TaskType::new("demo.noop").expect("a type"), Json::parse("{}").expect("JSON"))
}

#[tokio::test]
async fn what_waits_is_ordered_and_announced_after_it_is_stored() {
    let mut order = MockOrder::new();
    let place = Waiting {
        id: TaskId(1),
        queue: QueueName::new("demo_tasks").expect("a queue"),
        priority: Default::default(),
        rank: Rank(1),
        suspicion: Default::default(),
    };
    order.expect_push().withf(move |tasks| tasks == [place.clone()]).times(1).returning(|_| Ok(()));
    let later = Submission { start: Start::After(Duration::from_secs(9)), ..noop() };
    // The order tells the workers itself.
    let tasks = tasks(taking(), Some(order), MockSignals::new());
    let submitted = created(tasks.submit(&Tenant::default(), vec![noop(), later]).await);
    tasks.announced().await;
    assert_eq!(
        submitted.iter().map(|task| task.status).collect::<Vec<_>>(),
        [Status::Pending, Status::Scheduled]
    );
    assert_eq!(submitted[0].updated_at, None);
}

#[tokio::test]
async fn a_submission_succeeds_while_the_order_is_away() {
    let mut order = MockOrder::new();
    order.expect_push().times(1).returning(|_| Err(StoreError::Unavailable("connection refused".into())));
    let mut signals = MockSignals::new();
    let work = Signal::work(vec![QueueName::new("demo_tasks").expect("a queue")]);
    signals.expect_publish().withf(move |news| news == [work.clone()]).times(1).returning(|_| ());
    let tasks = tasks(taking(), Some(order), signals);
    let submitted = tasks.submit(&Tenant::default(), vec![noop()]).await;
    assert_eq!(created(submitted)[0].id, TaskId(1));
    tasks.announced().await;
}

#[tokio::test]
async fn nothing_is_announced_that_was_not_stored() {
    let mut store = MockTaskStore::new();
    store.expect_submit().times(1).returning(|_| Err(StoreError::Unavailable("disk full".into())));
    let outcome = tasks(store, Some(MockOrder::new()), MockSignals::new())
        .submit(&Tenant::default(), vec![noop()])
        .await;
    assert!(matches!(outcome, Err(SubmitError::Store(StoreError::Unavailable(_)))));
}

#[tokio::test]
async fn every_field_at_fault_is_named_and_nothing_is_stored() {
    let bad = Submission {
        max_attempts: Some(0),
        time_limit: Some(Duration::ZERO),
        soft_time_limit: Some(Limits::LONGEST + Duration::from_secs(1)),
        ..Submission::new(
            TaskType::new("math.square").expect("a type"),
            Json::parse("\"four\"").expect("JSON"),
        )
    };
    let outcome =
        tasks(MockTaskStore::new(), None, MockSignals::new()).submit(&Tenant::default(), vec![bad]).await;
    let Err(SubmitError::Invalid(fields)) = outcome else { panic!("{outcome:?}") };
    let mut named: Vec<_> = fields.iter().map(|field| field.field).collect();
    named.dedup();
    assert_eq!(
        named,
        ["input", "max_attempts", "time_limit_seconds", "soft_time_limit_seconds"],
        "{fields:?}"
    );
}

#[tokio::test]
async fn an_unknown_type_is_refused_with_the_known_ones() {
    let unknown =
        Submission::new(TaskType::new("demo.nop").expect("a type"), Json::parse("{}").expect("JSON"));
    let outcome =
        tasks(MockTaskStore::new(), None, MockSignals::new()).submit(&Tenant::default(), vec![unknown]).await;
    let text = outcome.expect_err("refused").to_string();
    assert!(text.contains("demo.nop") && text.contains("demo.noop, math.square"), "{text}");
}

#[tokio::test]
async fn limits_come_from_the_task_then_its_type() {
    let square =
        Submission::new(TaskType::new("math.square").expect("a type"), Json::parse("4").expect("JSON"));
    let short = Submission { time_limit: Some(Duration::from_secs(5)), ..square.clone() };
    let submitted = tasks(taking(), None, silent()).submit(&Tenant::default(), vec![square, short]).await;
    let submitted = created(submitted);
    assert_eq!(submitted[0].limits.max_attempts, 2);
    assert_eq!(submitted[0].queue, QueueName::default_queue());
    assert_eq!(submitted[1].limits.time_limit, Duration::from_secs(5));
    assert_eq!(
        submitted[1].limits.soft_time_limit, None,
        "the type's soft limit lies beyond the task's hard one"
    );
}

#[tokio::test]
async fn a_running_tasks_worker_is_told_of_its_cancellation() {
    let mut store = MockTaskStore::new();
    store.expect_cancel().returning(|_, _| Ok(vec![CancelOutcome::Requested]));
    let mut signals = MockSignals::new();
    signals
        .expect_publish()
        .withf(|news| news == [Signal::Cancel(vec![TaskId(7)])])
        .times(1)
        .returning(|_| ());
    let outcome = tasks(store, None, signals).cancel(&Tenant::default(), TaskId(7)).await;
    assert_eq!(outcome, Ok(CancelOutcome::Requested));
}

#[tokio::test(start_paused = true)]
async fn waiting_for_an_unknown_task_ends_at_once() {
    let mut store = MockTaskStore::new();
    store.expect_read().times(1).returning(|_, _| Ok(vec![]));
    let signals = Arc::new(InProcessSignals::new());
    let tasks = Tasks::new(Arc::new(store), None, signals, registry(), Arc::new(Routes::default()));
    assert_eq!(tasks.wait(&Tenant::default(), TaskId(1), Duration::from_secs(60)).await, Ok(None));
}

#[tokio::test]
async fn health_names_what_is_away_and_whether_that_matters() {
    let mut store = MockTaskStore::new();
    store.expect_ping().returning(|| Err(StoreError::Unavailable("connection refused".into())));
    let mut order = MockOrder::new();
    order.expect_ping().returning(|| Ok(Duration::from_millis(1)));
    let health = tasks(store, Some(order), MockSignals::new()).health().await;
    assert_eq!(
        health.iter().map(|h| (h.healthy, h.required)).collect::<Vec<_>>(),
        [(false, true), (true, false)]
    );
    assert!(health[0].error.as_deref().is_some_and(|error| error.contains("connection refused")));
}

#[tokio::test]
async fn a_replay_is_answered_as_it_was_and_announced_to_nobody() {
    let urgent = QueueName::new("urgent").expect("a queue");
    let mut store = MockTaskStore::new();
    store.expect_submit().returning(|_| {
        Ok(vec![Submitted::Replayed(Receipt {
            id: TaskId(7),
            created_at: now(),
            run_at: None,
            rank: Rank(7),
        })])
    });
    let queue = urgent.clone();
    store.expect_read().times(1).returning(move |_, ids| {
        let ran = Task { queue: queue.clone(), attempt: 1, status: Status::Completed, ..example(ids[0]) };
        Ok(vec![ran])
    });
    let outcome = tasks(store, Some(MockOrder::new()), MockSignals::new())
        .submit(&Tenant::default(), vec![noop()])
        .await;
    let [Admission::Replayed(task)] = &outcome.expect("answered")[..] else { panic!("a replay") };
    assert_eq!((task.id, task.status, task.attempt), (TaskId(7), Status::Pending, 0), "as it was then");
    assert_eq!(task.queue, urgent, "where it was routed then");
}

#[tokio::test]
async fn a_unique_task_is_answered_with_the_one_in_its_way() {
    let mut store = MockTaskStore::new();
    store.expect_submit().returning(|_| Ok(vec![Submitted::Existing(TaskId(3))]));
    store.expect_read().returning(|_, ids| Ok(vec![Task { status: Status::Processing, ..example(ids[0]) }]));
    let outcome = tasks(store, None, MockSignals::new()).submit(&Tenant::default(), vec![noop()]).await;
    let [Admission::Existing(task)] = &outcome.expect("answered")[..] else { panic!("the existing one") };
    assert_eq!((task.id, task.status), (TaskId(3), Status::Processing));
}

#[tokio::test]
async fn a_window_and_states_that_mean_nothing_are_refused() {
    let key = UniqueKey::new("report").expect("a key");
    let unique = Unique { key, among: Vec::new(), window: Some(Duration::ZERO) };
    let bad = Submission { unique: Some(unique), ..noop() };
    let outcome =
        tasks(MockTaskStore::new(), None, MockSignals::new()).submit(&Tenant::default(), vec![bad]).await;
    let Err(SubmitError::Invalid(fields)) = outcome else { panic!("{outcome:?}") };
    let named: Vec<_> = fields.iter().map(|field| field.field).collect();
    assert_eq!(named, ["unique_states", "unique_window_seconds"]);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_with_too_many_waiting_is_asked_to_come_again() {
    let mut store = taking();
    let waiting = |status, count| QueueCounts { queue: QueueName::default_queue(), status, count };
    store
        .expect_counts()
        .times(1)
        .returning(move |_| Ok(vec![waiting(Status::Pending, 6), waiting(Status::Completed, 90)]));
    store.expect_counts().returning(move |_| Ok(vec![waiting(Status::Scheduled, 1)]));
    let tasks = tasks(store, None, silent()).with_waiting_limit(Some(8));
    let tenant = Tenant::default();
    created(tasks.submit(&tenant, vec![noop(), noop()]).await);
    let full = tasks.submit(&tenant, vec![noop()]).await;
    assert!(matches!(full, Err(SubmitError::TooManyWaiting { waiting: 8, limit: 8 })), "{full:?}");
    tokio::time::advance(Duration::from_secs(1)).await;
    created(tasks.submit(&tenant, vec![noop()]).await);
}

/// A product of 1,200 failed tasks of which every third divided by zero.
async fn failed() -> (Arc<MemoryStore>, Tasks) {
    let store = Arc::new(MemoryStore::new(now()));
    let signals = Arc::new(InProcessSignals::new());
    let tasks = Tasks::new(store.clone(), None, signals, registry(), Arc::new(Routes::default()));
    tasks.submit(&Tenant::default(), vec![noop(); 1_200]).await.expect("submitted");
    crate::testing::fail_all(&store, |id| if id.0 % 3 == 0 { "division_by_zero" } else { "busy" }).await;
    (store, tasks)
}

#[tokio::test]
async fn what_failed_alike_runs_again_together() {
    let (_store, tasks) = failed().await;
    let tenant = Tenant::default();
    let filter = TaskFilter { error_code: Some("division_by_zero".into()), ..TaskFilter::default() };
    let first = tasks.retry_matching(&tenant, &filter, 150).await;
    assert_eq!(first, Ok(Swept { changed: 150, more: true }));
    let rest = tasks.retry_matching(&tenant, &filter, 10_000).await;
    assert_eq!(rest, Ok(Swept { changed: 250, more: false }));
    let groups = tasks.failures(&tenant).await.expect("readable");
    assert_eq!(groups.iter().map(|group| (&*group.code, group.count)).collect::<Vec<_>>(), [("busy", 800)]);
    let discarded = tasks.discard_matching(&tenant, &TaskFilter::default(), 10_000).await;
    assert_eq!(discarded, Ok(Swept { changed: 800, more: false }), "those that wait again are spared");
}

#[tokio::test]
async fn completed_tasks_are_swept_by_no_retry() {
    let mut store = MockTaskStore::new();
    store.expect_list().never();
    let filter = TaskFilter { statuses: vec![Status::Completed], ..TaskFilter::default() };
    let swept = tasks(store, None, MockSignals::new()).retry_matching(&Tenant::default(), &filter, 10).await;
    assert_eq!(swept, Ok(Swept::default()));
}

#[tokio::test]
async fn a_retry_is_ordered_and_announced() {
    let place = Waiting {
        id: TaskId(5),
        queue: QueueName::default_queue(),
        priority: Default::default(),
        rank: Rank(5),
        suspicion: Default::default(),
    };
    let mut store = MockTaskStore::new();
    let there = place.clone();
    store.expect_retry().returning(move |_, _| Ok(vec![RetryOutcome::Waiting(there.clone(), 4)]));
    let mut order = MockOrder::new();
    order.expect_push().withf(move |tasks| tasks == [place.clone()]).times(1).returning(|_| Ok(()));
    let mut signals = MockSignals::new();
    let state = Signal::State { task: TaskId(5), attempt: 4, status: Status::Pending };
    signals.expect_publish().withf(move |news| news == [state.clone()]).times(1).returning(|_| ());
    let outcome = tasks(store, Some(order), signals)
        .retry(&Tenant::default(), Retry { id: TaskId(5), input: None })
        .await;
    assert!(matches!(outcome, Ok(RetryOutcome::Waiting(..))));
}

fn example(id: TaskId) -> Task {
    let Submission { task_type, input, .. } = noop();
    Task {
        id,
        tenant: Tenant::default(),
        task_type,
        queue: QueueName::default_queue(),
        priority: Default::default(),
        input,
        metadata: None,
        limits: Limits::default(),
        own: Default::default(),
        unique_key: None,
        status: Status::Pending,
        cancel_requested: false,
        attempt: 0,
        result: None,
        details: None,
        error: None,
        progress: None,
        created_at: now(),
        updated_at: None,
        run_at: None,
        expires_at: None,
        started_at: None,
        completed_at: None,
        needs: None,
        waits_for: None,
        batch: None,
        fairness_key: None,
    }
}

#[tokio::test]
async fn an_input_that_is_too_large_is_refused_with_size_and_limit() {
    let big = Submission { input: Json::parse(format!("\"{}\"", "x".repeat(100))).expect("JSON"), ..noop() };
    let tasks = tasks(MockTaskStore::new(), None, MockSignals::new()).with_largest_input(101);
    let Err(SubmitError::Invalid(wrong)) = tasks.submit(&Tenant::default(), vec![big]).await else {
        panic!("accepted")
    };
    let too_large = wrong.iter().find(|wrong| wrong.message.contains("bytes")).expect("its size is named");
    assert_eq!(too_large.field, "input");
    assert!(too_large.message.contains("102") && too_large.message.contains("101"), "{}", too_large.message);
}

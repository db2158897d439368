//! The clients' use cases against mocked ports.

use std::{sync::Arc, time::Duration};

use chrono::DateTime;
use domain::{Json, Limits, QueueName, Routes, Start, Status, TaskId, TaskType, Tenant, Timestamp};
use serde::de::IgnoredAny;

use super::{Submission, SubmitError, Tasks};
use crate::{
    in_process::InProcessSignals,
    ports::{CancelOutcome, MockOrder, MockSignals, MockTaskStore, Receipt, Signal, StoreError, Waiting},
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
            created_at: now(),
            run_at: match task.start {
                Start::Now => None,
                Start::At(at) => Some(at),
                Start::After(wait) => Some(now() + wait),
            },
        };
        Ok(tasks.iter().enumerate().map(receipt).collect())
    });
    store
}

fn silent() -> MockSignals {
    let mut signals = MockSignals::new();
    signals.expect_publish().returning(|_| ());
    signals
}

fn noop() -> Submission {
    Submission::new(TaskType::new("demo.noop").expect("a type"), Json::parse("{}").expect("JSON"))
}

#[tokio::test]
async fn what_waits_is_ordered_and_announced_after_it_is_stored() {
    let (mut order, mut signals) = (MockOrder::new(), MockSignals::new());
    let queue = QueueName::new("demo_tasks").expect("a queue");
    let place = Waiting { id: TaskId(1), queue: queue.clone(), priority: Default::default() };
    order.expect_push().withf(move |tasks| tasks == [place.clone()]).times(1).returning(|_| Ok(()));
    signals
        .expect_publish()
        .withf(move |news| news == [Signal::Work(vec![queue.clone()])])
        .times(1)
        .returning(|_| ());
    let later = Submission { start: Start::After(Duration::from_secs(9)), ..noop() };
    let submitted =
        tasks(taking(), Some(order), signals).submit(&Tenant::default(), vec![noop(), later]).await;
    let submitted = submitted.expect("submitted");
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
    let submitted = tasks(taking(), Some(order), silent()).submit(&Tenant::default(), vec![noop()]).await;
    assert_eq!(submitted.expect("submitted")[0].id, TaskId(1));
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
    let submitted =
        tasks(taking(), None, silent()).submit(&Tenant::default(), vec![square, short]).await.expect("ok");
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

//! The use cases over the memory store.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use domain::{
    LimitOverrides, QueueName, QueueSettings, RetryPolicy, Routes, Status, TaskId, Tenant,
    why::{Hold, Place},
};
use futures_util::StreamExt;
use serde::de::IgnoredAny;

use super::{PurgeReport, QueueEvent};
use crate::{
    ports::{QueueStore, Signals},
    registry::{Output, TaskTypeSpec},
    testing::{Product, queue},
};

fn noop() -> TaskTypeSpec {
    TaskTypeSpec::new("demo.noop", "Nothing.", |_, _: IgnoredAny| async { Output::of(&()) })
}

#[tokio::test(start_paused = true)]
async fn a_purge_goes_in_steps_over_all_that_waits_and_tells_the_readers() {
    let mut heard: Option<Arc<dyn Signals>> = None;
    let product = Product::with(|_, signals| {
        heard = Some(signals);
        [noop()]
    });
    let signals = heard.expect("signals");
    let mut ids = Vec::new();
    for _ in 0..super::PURGE_STEP + 500 {
        ids.push(product.submit("demo.noop", |_| {}).await);
    }
    let elsewhere = product.submit("demo.noop", |task| task.queue = Some(queue("other"))).await;
    let mut news = signals.task(ids[0]).await;
    let name = product.read(ids[0]).await.queue;
    let report = product.queues().purge(&Tenant::default(), &name).await.expect("purged");
    assert_eq!(report, PurgeReport { purged: ids.len(), more: false });
    assert!(news.try_recv().is_ok(), "whoever waits for it hears of its end");
    let last = product.read(ids[ids.len() - 1]).await;
    assert_eq!((last.status, last.error.expect("why").code.as_str()), (Status::Cancelled, "purged"));
    assert_eq!(product.read(elsewhere).await.status, Status::Pending);
}

#[tokio::test]
async fn every_queue_is_listed_that_is_routed_to_or_paused_or_has_tasks() {
    let product = Product::new([noop()]);
    product.submit("demo.noop", |task| task.queue = Some(queue("used"))).await;
    product.store.pause_queue(&queue("paused"), true).await.expect("paused");
    let found = product.queues().list(&Tenant::default()).await.expect("listed");
    let names: Vec<_> = found.iter().map(|report| report.name.as_str()).collect();
    let expected =
        ["ai_processing", "default", "demo_tasks", "notifications", "paused", "reports", "urgent", "used"];
    assert_eq!(names, expected);
    let of = |name: &str| found.iter().find(|report| report.name.as_str() == name).expect("listed");
    assert_eq!(of("urgent").patterns, ["urgent.*"]);
    assert!(of("default").is_fallback && of("paused").paused && !of("used").paused);
    assert_eq!(of("used").counts, [(Status::Pending, 1)]);
    let unknown = product.queues().read(&Tenant::default(), &queue("nowhere")).await.expect("read");
    assert_eq!(unknown, None);
}

#[tokio::test]
async fn a_queues_defaults_stand_above_its_types_and_below_the_submission() {
    let said = LimitOverrides { max_attempts: Some(7), ..LimitOverrides::default() };
    let steady = RetryPolicy { jitter: false, ..RetryPolicy::default() };
    let settings = QueueSettings { defaults: said, retry: Some(steady.clone()), ..QueueSettings::default() };
    let demo: QueueName = queue("demo_tasks");
    let product = Product::new([noop()])
        .with_routes(Routes::default().with_settings(BTreeMap::from([(demo, settings)])));
    let by_queue = product.submit("demo.noop", |_| {}).await;
    let by_itself = product.submit("demo.noop", |task| task.max_attempts = Some(2)).await;
    let elsewhere = product.submit("demo.noop", |task| task.queue = Some(queue("other"))).await;
    let own = RetryPolicy::default();
    let by_its_policy = product.submit("demo.noop", |task| task.own.retry = Some(own.clone())).await;
    for (id, attempts, retry) in [
        (by_queue, 7, Some(&steady)),
        (by_itself, 2, Some(&steady)),
        (by_its_policy, 7, Some(&own)),
        (elsewhere, 4, None),
    ] {
        let task = product.read(id).await;
        assert_eq!((task.limits.max_attempts, task.own.retry.as_ref()), (attempts, retry));
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_of_a_queue_is_told_of_its_changes_together_and_once_a_second_at_most() {
    let product = Product::new([noop()]);
    let name = queue("demo_tasks");
    let queues = product.queues();
    let watch = queues.watch(&Tenant::default(), &name).await.expect("watched").expect("known");
    let mut events = std::pin::pin!(watch);
    let mut pending = async || match events.next().await {
        Some(QueueEvent::Queue(report)) => (report.count(Status::Pending), report.paused),
        other => panic!("{other:?}"),
    };
    assert_eq!(pending().await, (0, false), "first, how it stands");
    let begun = tokio::time::Instant::now();
    for _ in 0..5 {
        product.submit("demo.noop", |_| {}).await;
    }
    assert_eq!(pending().await, (5, false), "five changes, one event");
    product.store.pause_queue(&name, true).await.expect("paused");
    assert_eq!(pending().await, (5, true));
    assert!(begun.elapsed() >= Duration::from_secs(2));
    let quiet = tokio::time::timeout(Duration::from_secs(3600), pending()).await;
    assert!(quiet.is_err(), "where nothing happens, nothing is told: {quiet:?}");
}

#[tokio::test(start_paused = true)]
async fn a_task_is_told_who_could_run_it_and_when() {
    let slow = TaskTypeSpec::new("demo.slow", "Takes ten seconds.", |_, _: IgnoredAny| async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        Output::of(&())
    });
    let product = Product::new([slow]);
    let first = product.submit("demo.slow", |_| {}).await;
    let _worker = product.worker(1);
    product.end_of(first).await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(product.submit("demo.slow", |_| {}).await);
    }
    // A worker reports every few seconds.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let explain =
        async |id| product.queues().explain(&Tenant::default(), id).await.expect("read").expect("known");
    let running = explain(ids[0]).await;
    assert_eq!((running.task.status, running.why.holds.as_slice()), (Status::Processing, &[][..]));
    let next = explain(ids[1]).await;
    assert_eq!((next.ahead, next.why.holds), (Some(Place::Behind(0)), vec![Hold::NoFreeSlot]));
    let runners: Vec<_> =
        next.runners.iter().map(|(worker, could)| (worker.record.concurrency, *could)).collect();
    assert_eq!(runners, [(1, true)]);
    let last = explain(ids[2]).await;
    let ahead = Hold::OthersAhead { tasks: 1, or_more: false };
    assert_eq!((last.ahead, last.why.holds), (Some(Place::Behind(1)), vec![ahead, Hold::NoFreeSlot]));
    let (soon, later) = (next.why.expected_start, last.why.expected_start);
    assert!(soon.expect("one has ended lately") < later.expect("one has ended lately"));
    assert_eq!(product.queues().explain(&Tenant::default(), TaskId(99)).await, Ok(None));
}

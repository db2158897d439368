//! The use cases over the memory store.

use std::{collections::BTreeMap, sync::Arc};

use domain::{LimitOverrides, QueueName, QueueSettings, RetryPolicy, Routes, Status, Tenant};
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
    assert!(begun.elapsed() >= std::time::Duration::from_secs(2));
    let quiet = tokio::time::timeout(std::time::Duration::from_secs(3600), pending()).await;
    assert!(quiet.is_err(), "where nothing happens, nothing is told: {quiet:?}");
}

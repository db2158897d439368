//! Queues that stand still, that are excluded, that have limits.

use std::{collections::BTreeMap, sync::atomic::AtomicUsize};

use domain::{QueueLimits, QueueSettings, Routes};

use super::*;
use crate::{ports::QueueStore, queues::Queues};

fn queues_of(product: &Product) -> Queues {
    product.queues()
}

#[tokio::test(start_paused = true)]
async fn a_pause_holds_within_a_second_and_a_resumed_queue_goes_on() {
    let product = Product::new([quick("demo.quick"), quick("other.quick")]);
    let _worker = product.worker(4);
    let first = product.submit("demo.quick", |_| {}).await;
    let name = product.end_of(first).await.queue;
    assert!(queues_of(&product).pause(&name, true).await.expect("paused"));
    // Slept, not jumped over: the worker has to have had this second as well.
    tokio::time::sleep(seconds(1)).await;
    let held = product.submit("demo.quick", |_| {}).await;
    let free = product.submit("other.quick", |_| {}).await;
    assert_eq!(product.end_of(free).await.status, Status::Completed, "only that queue stands still");
    tokio::time::sleep(seconds(600)).await;
    assert_eq!(product.read(held).await.status, Status::Pending);
    let resumed = tokio::time::Instant::now();
    assert!(queues_of(&product).pause(&name, false).await.expect("resumed"));
    assert_eq!(product.end_of(held).await.status, Status::Completed);
    assert!(resumed.elapsed() <= seconds(1), "{:?}", resumed.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_runs_in_a_paused_queue_runs_on() {
    let (entered, leave) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (inside, out) = (Arc::clone(&entered), Arc::clone(&leave));
    let waits = TaskTypeSpec::new("demo.waits", "Waits.", move |_, _: IgnoredAny| {
        let (inside, out) = (Arc::clone(&inside), Arc::clone(&out));
        async move {
            inside.notify_one();
            out.notified().await;
            Output::of("done")
        }
    });
    let product = Product::new([waits]);
    let _worker = product.worker(4);
    let id = product.submit("demo.waits", |_| {}).await;
    entered.notified().await;
    let name = product.read(id).await.queue;
    product.store.pause_queue(&name, true).await.expect("paused");
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(product.read(id).await.status, Status::Processing);
    leave.notify_one();
    assert_eq!(product.end_of(id).await.status, Status::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_starts_knows_what_stands_still_before_it_takes_anything() {
    let product = Product::new([quick("demo.quick")]);
    let id = product.submit("demo.quick", |_| {}).await;
    let name = product.read(id).await.queue;
    product.store.pause_queue(&name, true).await.expect("paused");
    let _worker = product.worker(4);
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(product.read(id).await.attempt, 0);
}

#[tokio::test(start_paused = true)]
async fn an_excluded_queue_is_not_served_even_when_it_is_new() {
    let product = Product::new([quick("demo.quick")]);
    let excluded = [queue("reports"), queue("brand-new")];
    let _worker = product.worker_with(4, |config| config.except = excluded.to_vec());
    let mut left = Vec::new();
    for name in &excluded {
        left.push(product.submit("demo.quick", |task| task.queue = Some(name.clone())).await);
    }
    let served = product.submit("demo.quick", |task| task.queue = Some(queue("another-new"))).await;
    assert_eq!(
        product.end_of(served).await.status,
        Status::Completed,
        "every other queue is, also a new one"
    );
    tokio::time::sleep(seconds(60)).await;
    for id in left {
        assert_eq!(product.read(id).await.status, Status::Pending);
    }
}

/// Routes whose demo queue has these limits.
fn with_limits(limits: QueueLimits) -> Routes {
    let settings = QueueSettings { limits, ..QueueSettings::default() };
    Routes::default().with_settings(BTreeMap::from([(queue("demo_tasks"), settings)]))
}

#[tokio::test(start_paused = true)]
async fn no_more_of_a_queue_run_at_once_than_may_over_several_workers() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (running, peak) = (Arc::clone(&now), Arc::clone(&most));
    let slow = TaskTypeSpec::new("demo.slow", "Takes a second.", move |_, _: IgnoredAny| {
        let (running, peak) = (Arc::clone(&running), Arc::clone(&peak));
        async move {
            peak.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(seconds(1)).await;
            running.fetch_sub(1, Ordering::SeqCst);
            Output::of("done")
        }
    });
    let limits = QueueLimits { max_running: Some(3), rate: None };
    let product = Product::new([slow, quick("other.quick")]).with_routes(with_limits(limits));
    let _workers = [product.worker(10), product.worker(10)];
    let mut ids = Vec::new();
    for _ in 0..12 {
        ids.push(product.submit("demo.slow", |_| {}).await);
    }
    let free = product.submit("other.quick", |_| {}).await;
    let begun = tokio::time::Instant::now();
    assert_eq!(product.end_of(free).await.status, Status::Completed);
    assert!(begun.elapsed() < seconds(1), "a limited queue takes no slots of the others");
    for id in ids {
        assert_eq!(product.end_of(id).await.status, Status::Completed);
    }
    assert_eq!(most.load(Ordering::SeqCst), 3);
    assert!(
        begun.elapsed() <= seconds(7),
        "four rounds of a second, with little between: {:?}",
        begun.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn no_more_of_a_queue_are_started_than_its_rate_lets_through() {
    let rate = "2/s".parse::<domain::RateLimit>().expect("a rate").with_burst(3).expect("a burst");
    let limits = QueueLimits { max_running: None, rate: Some(rate) };
    let product = Product::new([quick("demo.quick")]).with_routes(with_limits(limits));
    let mut ids = Vec::new();
    for _ in 0..9 {
        ids.push(product.submit("demo.quick", |_| {}).await);
    }
    let _workers = [product.worker(10), product.worker(10)];
    let mut starts = Vec::new();
    for id in ids {
        starts.push(product.end_of(id).await.started_at.expect("started"));
    }
    starts.sort_unstable();
    let after = |n: usize| (starts[n] - starts[0]).num_milliseconds();
    assert_eq!((after(1), after(2)), (0, 0), "a burst of three");
    for n in 3..9 {
        let earliest = (n as i64 - 2) * 500;
        assert!((earliest..earliest + 400).contains(&after(n)), "task {n} after {} ms", after(n));
    }
}

#[tokio::test(start_paused = true)]
async fn a_queue_says_how_its_tasks_ran_and_who_serves_it() {
    let fails = TaskTypeSpec::new("demo.fails", "Fails.", |_, _: IgnoredAny| async {
        tokio::time::sleep(seconds(2)).await;
        Err::<Output, _>(Failure::permanent("no", "as the test says"))
    });
    let product = Product::new([fails, quick("demo.quick")]);
    let tenant = Tenant::default();
    let waiting = product.submit("demo.quick", |_| {}).await;
    let name = product.read(waiting).await.queue;
    let report = async || queues_of(&product).read(&tenant, &name).await.expect("read").expect("known");
    tokio::time::advance(seconds(5)).await;
    let before = report().await;
    assert_eq!((before.oldest_waiting, before.workers, before.recent), (Some(seconds(5)), 0, None));
    assert!(before.warning().expect("nobody serves it").contains("no living worker"));
    let _worker = product.worker(4);
    let failed = product.submit("demo.fails", |_| {}).await;
    product.end_of(waiting).await;
    product.end_of(failed).await;
    tokio::time::sleep(seconds(3)).await;
    let after = report().await;
    assert_eq!((after.workers, after.warning(), after.oldest_waiting), (1, None, None));
    let recent = after.recent.expect("they ran");
    assert_eq!((recent.runs.ended, recent.runs.failed), (2, 1));
    assert_eq!(recent.mean, seconds(1));
    assert!((seconds(2)..Duration::from_millis(2400)).contains(&recent.p95), "{recent:?}");
    assert_eq!(after.patterns, ["demo.*"]);
}

/// In which order a worker of one slot runs what waits, by queue.
async fn order_of(order: domain::QueueOrder, tasks: &[(&str, i64)]) -> Vec<String> {
    let ran = Arc::new(std::sync::Mutex::new(Vec::new()));
    let book = Arc::clone(&ran);
    let tells = TaskTypeSpec::new("demo.tells", "Tells its queue.", move |_, name: String| {
        book.lock().expect("not poisoned").push(name);
        async { Output::of("done") }
    });
    let product = Product::new([tells]);
    let mut ids = Vec::new();
    for (name, urgency) in tasks {
        let change = |task: &mut crate::tasks::Submission| {
            task.queue = Some(queue(name));
            task.input = domain::Json::from_value(name).expect("JSON");
            task.priority = domain::Priority::new(*urgency);
        };
        ids.push(product.submit("demo.tells", change).await);
    }
    let _worker = product.worker_with(1, |config| {
        config.queues = vec![queue("a"), queue("b")];
        config.order = order;
    });
    for id in ids {
        assert_eq!(product.end_of(id).await.status, Status::Completed);
    }
    ran.lock().expect("not poisoned").clone()
}

#[tokio::test(start_paused = true)]
async fn a_strict_worker_empties_its_first_queue_first_whatever_is_urgent_elsewhere() {
    let strict = domain::QueueOrder::Strict(vec![queue("a"), queue("b")]);
    let ran = order_of(strict, &[("b", 0), ("b", 0), ("a", 9), ("a", 9)]).await;
    assert_eq!(ran, ["a", "a", "b", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_weighted_worker_serves_each_queue_by_its_weight() {
    let weighted = domain::QueueOrder::Weighted(vec![(queue("a"), 3), (queue("b"), 1)]);
    let mut tasks = vec![("a", 5); 6];
    tasks.extend([("b", 0); 6]);
    let ran = order_of(weighted, &tasks).await;
    assert_eq!(ran[..8].iter().filter(|queue| *queue == "a").count(), 6, "{ran:?}");
}

#[tokio::test(start_paused = true)]
async fn a_worker_goes_by_priority_over_all_its_queues_unless_told_otherwise() {
    let ran = order_of(domain::QueueOrder::Priority, &[("a", 9), ("a", 9), ("b", 0), ("b", 0)]).await;
    assert_eq!(ran, ["b", "b", "a", "a"]);
}

//! Workers that are told what to do, against the memory store on a paused clock.

use domain::Status;
use serde::de::IgnoredAny;

use super::*;
use crate::{
    ports::{FleetStore, WorkStore},
    registry::{Output, TaskTypeSpec},
    testing::{Product, profile, queue},
};

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn quick() -> TaskTypeSpec {
    TaskTypeSpec::new("demo.quick", "Completes at once.", |_, _: IgnoredAny| async { Output::of("done") })
}

/// Takes ten seconds.
fn slow() -> TaskTypeSpec {
    TaskTypeSpec::new("demo.slow", "Takes a while.", |_, _: IgnoredAny| async {
        tokio::time::sleep(seconds(10)).await;
        Output::of("done")
    })
}

async fn tell(product: &Product, command: &str) -> Vec<Obeyed> {
    let command = command.parse().expect("a command");
    product.workers().command(&Target::All, &command, seconds(10)).await.expect("told")
}

/// What the one worker answered.
async fn done(product: &Product, command: &str) -> String {
    let answers = tell(product, command).await;
    assert_eq!(answers.len(), 1, "{answers:?}");
    let answer = answers[0].answer.clone().expect("an answer");
    assert!(answer.done, "{answer:?}");
    answer.message
}

async fn refused(product: &Product, command: &str) -> String {
    let answer = tell(product, command).await.remove(0).answer.expect("an answer");
    assert!(!answer.done, "{answer:?}");
    answer.message
}

/// The one worker that is there, once it is as wanted.
async fn becomes(product: &Product, what: &str, wanted: impl Fn(&WorkerInfo) -> bool) -> WorkerInfo {
    for _ in 0..2_000 {
        let found = product.workers().list().await.expect("listed");
        if let Some(worker) = found.into_iter().find(|worker| wanted(worker)) {
            return worker;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("no worker is {what}: {:?}", product.workers().list().await);
}

#[tokio::test(start_paused = true)]
async fn inspection_tells_what_a_worker_serves_runs_and_has_done() {
    let product = Product::new([quick(), slow()]);
    let _worker = product.worker_with(7, |config| {
        config.about = About { version: "1.2.3".to_owned(), pid: 4711, ..About::default() };
        config.memory = || Some(1_000_000);
    });
    let first = product.submit("demo.quick", |_| {}).await;
    product.end_of(first).await;
    let running = product.submit("demo.slow", |_| {}).await;
    let worker = becomes(&product, "busy", |worker| worker.standing.active_count == 1).await;
    assert_eq!((worker.state, worker.record.concurrency), (WorkerState::Alive, 7));
    assert_eq!((worker.about.version.as_str(), worker.about.pid), ("1.2.3", 4711));
    assert_eq!(worker.about.types, ["demo.quick", "demo.slow"]);
    assert_eq!((worker.standing.ended.completed, worker.standing.memory), (1, Some(1_000_000)));
    let active = &worker.standing.active[0];
    assert_eq!((active.task, active.attempt, active.task_type.as_str()), (running.0, 1, "demo.slow"));
    assert_eq!(Some(active.started_at), product.read(running).await.started_at);
}

#[tokio::test(start_paused = true)]
async fn a_paused_worker_takes_nothing_until_it_is_told_to() {
    let product = Product::new([quick()]);
    let _worker = product.worker(4);
    becomes(&product, "alive", |worker| worker.state == WorkerState::Alive).await;
    done(&product, "pause").await;
    assert_eq!(product.workers().list().await.expect("listed")[0].state, WorkerState::Paused, "told at once");
    let task = product.submit("demo.quick", |_| {}).await;
    tokio::time::sleep(seconds(60)).await;
    assert_eq!(product.read(task).await.status, Status::Pending);
    done(&product, "resume").await;
    assert_eq!(product.end_of(task).await.status, Status::Completed);
}

#[tokio::test(start_paused = true)]
async fn the_pool_size_can_be_changed_while_tasks_run() {
    let product = Product::new([slow()]);
    let _worker = product.worker(1);
    for _ in 0..6 {
        product.submit("demo.slow", |_| {}).await;
    }
    becomes(&product, "busy", |worker| worker.standing.active_count == 1).await;
    assert!(done(&product, "concurrency 3").await.starts_with("3 slots"));
    becomes(&product, "busier", |worker| worker.standing.active_count == 3).await;
    done(&product, "concurrency 1").await;
    becomes(&product, "less busy", |worker| worker.standing.active_count == 1).await;
}

#[tokio::test(start_paused = true)]
async fn queues_are_added_and_removed_while_a_worker_lives() {
    let product = Product::new([quick()]);
    let _worker = product.worker_with(4, |config| {
        config.queues = vec![queue("a")];
    });
    let elsewhere = product.submit("demo.quick", |task| task.queue = Some(queue("b"))).await;
    becomes(&product, "alive", |worker| worker.state == WorkerState::Alive).await;
    assert!(refused(&product, "remove-queue a").await.contains("no queue would be left"));
    assert_eq!(done(&product, "add-queue b").await, "serves a,b");
    product.end_of(elsewhere).await;
    assert_eq!(done(&product, "remove-queue a").await, "serves b");
    let left = product.submit("demo.quick", |task| task.queue = Some(queue("a"))).await;
    tokio::time::sleep(seconds(30)).await;
    assert_eq!(product.read(left).await.status, Status::Pending);
    assert_eq!(product.workers().list().await.expect("listed")[0].record.queues, [queue("b")]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_of_every_queue_can_leave_one_out() {
    let product = Product::new([quick()]);
    let _worker = product.worker(4);
    becomes(&product, "alive", |worker| worker.state == WorkerState::Alive).await;
    assert_eq!(done(&product, "remove-queue slow").await, "serves every queue but slow");
    let slow = product.submit("demo.quick", |task| task.queue = Some(queue("slow"))).await;
    let other = product.submit("demo.quick", |task| task.queue = Some(queue("new"))).await;
    product.end_of(other).await;
    tokio::time::sleep(seconds(30)).await;
    assert_eq!(product.read(slow).await.status, Status::Pending);
    done(&product, "add-queue slow").await;
    product.end_of(slow).await;
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_holds_for_one_type_and_charges_nothing() {
    let product = Product::new([quick(), slow()]);
    let _worker = product.worker(100);
    let upkeep = tokio::spawn(product.upkeep().run(tokio_util::sync::CancellationToken::new()));
    becomes(&product, "alive", |worker| worker.state == WorkerState::Alive).await;
    assert!(refused(&product, "rate-limit demo.nothing 1/s").await.contains("demo.nothing"));
    done(&product, "rate-limit demo.quick 1/s").await;
    let mut limited = Vec::new();
    for _ in 0..10 {
        limited.push(product.submit("demo.quick", |_| {}).await);
    }
    let free = product.submit("demo.slow", |_| {}).await;
    product.end_of(free).await;
    let mut starts = Vec::new();
    for task in limited {
        let task = product.end_of(task).await;
        assert_eq!(task.status, Status::Completed);
        starts.push(task.started_at.expect("it started"));
    }
    starts.sort_unstable();
    for pair in starts.windows(2) {
        assert!(pair[1] - pair[0] >= chrono::TimeDelta::milliseconds(999), "{starts:?}");
    }
    assert!(starts[9] - starts[0] < chrono::TimeDelta::seconds(20), "and it is used: {starts:?}");
    let standing = becomes(&product, "done", |worker| worker.standing.ended.completed == 11).await.standing;
    assert_eq!(standing.rate_limits, [("demo.quick".to_owned(), "1/s".to_owned())]);
    assert_eq!((standing.ended.completed, standing.ended.retried, standing.ended.failed), (11, 0, 0));
    done(&product, "rate-limit demo.quick none").await;
    upkeep.abort();
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_what_runs_however_long_and_a_shutdown_for_the_grace_time() {
    for (command, status) in [("drain", Status::Completed), ("shutdown", Status::Pending)] {
        let product = Product::new([slow()]);
        let (_, worker) = product.worker_with(4, |config| config.grace = seconds(2));
        let running = product.submit("demo.slow", |_| {}).await;
        becomes(&product, "busy", |worker| worker.standing.active_count == 1).await;
        done(&product, command).await;
        assert_eq!(product.workers().list().await.expect("listed")[0].state, WorkerState::Draining);
        if command == "drain" {
            assert!(refused(&product, "resume").await.contains("drains"));
        }
        let waiting = product.submit("demo.slow", |_| {}).await;
        worker.await.expect("it ends");
        assert_eq!(product.read(running).await.status, status, "{command}");
        assert_eq!(product.read(waiting).await.attempt, 0, "nothing new is taken");
        assert_eq!(product.workers().list().await.expect("listed")[0].state, WorkerState::Left);
    }
}

#[tokio::test(start_paused = true)]
async fn without_news_a_worker_obeys_within_three_seconds() {
    let product = Product::new([quick()]);
    let _worker = product.worker(4);
    let worker = becomes(&product, "alive", |worker| worker.state == WorkerState::Alive).await;
    let asked = Instant::now();
    // Straight into the store: nobody publishes anything.
    let told = product.store.command(&[worker.record.id], "ping").await.expect("kept");
    while product.store.answers(&told).await.expect("readable").is_empty() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(asked.elapsed() < seconds(3), "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn whoever_cannot_be_told_is_named() {
    let product = Product::new([quick()]);
    let command = |target: &str| {
        let (workers, target) = (product.workers(), Target::parse(target).expect("a target"));
        async move { workers.command(&target, &Command::Ping, seconds(1)).await }
    };
    assert_eq!(command("all").await, Err(CommandError::Nobody));
    assert_eq!(command("nobody@host").await, Err(CommandError::Unknown("nobody@host".to_owned())));
    assert_eq!(command("4711").await, Err(CommandError::Unknown("4711".to_owned())));
    let gone = product.store.register(&profile("gone@host")).await.expect("registered");
    product.store.retire(gone).await.expect("retired");
    for target in ["gone@host".to_owned(), gone.to_string()] {
        assert_eq!(command(&target).await, Err(CommandError::Gone(target)));
    }
    // One that does not answer is told all the same.
    let deaf = product.store.register(&profile("deaf@host")).await.expect("registered");
    let obeyed = command("deaf@host").await.expect("told");
    assert_eq!((obeyed[0].worker, &obeyed[0].answer), (deaf, &None));
    let found = product.workers().find(&Target::parse("deaf@host").expect("a target")).await;
    assert_eq!(found.expect("readable").expect("known").record.id, deaf);
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_not_known_is_refused_in_words() {
    let product = Product::new([quick()]);
    let _worker = product.worker(4);
    let worker = becomes(&product, "alive", |worker| worker.state == WorkerState::Alive).await;
    let told = product.store.command(&[worker.record.id], "explode").await.expect("kept");
    loop {
        if let Some(answer) = product.store.answers(&told).await.expect("readable").pop() {
            assert!(!answer.done && answer.message.contains("explode"), "{answer:?}");
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn time_limits_as_worker_flags_cap_what_tasks_ask_for() {
    let product = Product::new([slow()]);
    let _worker = product.worker_with(4, |config| config.time_caps.hard = Some(seconds(3)));
    let task = product.submit("demo.slow", |task| task.max_attempts = Some(1)).await;
    let task = product.end_of(task).await;
    assert_eq!(task.status, Status::Failed);
    assert_eq!(task.error.expect("an error").code, "time_limit");
}

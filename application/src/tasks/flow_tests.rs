//! Chains and batches with a worker, over the memory store.

use std::time::Duration;

use domain::{
    Json, Status, TaskId, TaskType, Tenant,
    flow::{NodeName, OnFailure},
};
use futures_util::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    ports::{MockEmbedder, MockTextGenerator},
    task_types::{self, Models},
    testing::Product,
    worker::LARGEST_RESULT,
};

/// A product whose models are not asked.
fn product() -> Product {
    let (generator, embedder) = (Arc::new(MockTextGenerator::new()), Arc::new(MockEmbedder::new()));
    Product::with(|store, _| {
        task_types::built_in(&Models { generator, embedder, store, largest_result: LARGEST_RESULT })
    })
}

fn submission(task_type: &str, input: &str) -> Submission {
    Submission::new(TaskType::new(task_type).expect("a type"), Json::parse(input).expect("JSON"))
}

fn flow(task_type: &str, input: &str, then: Vec<FlowSubmission>) -> FlowSubmission {
    FlowSubmission { then, ..submission(task_type, input).into() }
}

async fn submit(product: &Product, flow: FlowSubmission) -> domain::Task {
    let admission = product.tasks.submit_flow(&Tenant::default(), flow).await.expect("submitted");
    admission.expect("an answer").task().expect("a task").clone()
}

/// Runs a worker and the upkeep until `work` is done.
async fn while_running<T>(product: &Product, work: impl Future<Output = T>) -> T {
    let (shutdown, worker) = product.worker(4);
    let stop = CancellationToken::new();
    let upkeep = tokio::spawn(product.upkeep().run(stop.clone()));
    let done = work.await;
    stop.cancel();
    shutdown.drain.cancel();
    worker.await.expect("the worker ends");
    upkeep.await.expect("the upkeep ends");
    done
}

#[tokio::test(start_paused = true)]
async fn a_chain_goes_on_as_soon_as_its_first_task_has_ended() {
    let product = product();
    let second = flow("demo.echo", r#"{"was":{"$result":"parent"}}"#, Vec::new());
    let head = submit(&product, flow("demo.echo", "7", vec![second])).await;
    let follower = head.needs.expect("links").then[0];
    let started = tokio::time::Instant::now();
    let ended = while_running(&product, product.end_of(follower)).await;
    assert_eq!(ended.result.expect("a result").as_str(), r#"{"was":7}"#);
    assert!(
        started.elapsed() < Duration::from_millis(400),
        "no round was waited for: {:?}",
        started.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn a_round_follows_up_what_nobody_was_woken_for() {
    let product = product();
    let second = flow("demo.noop", "null", Vec::new());
    let head = submit(&product, flow("demo.noop", "null", vec![second])).await;
    let follower = head.needs.expect("links").then[0];
    product.tasks.cancel(&Tenant::default(), head.id).await.expect("cancelled");
    let round = product.upkeep().round().await.expect("a round");
    assert_eq!(round.followed_up, 1);
    assert_eq!(product.read(follower).await.status, Status::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_batch_is_under_way_from_its_first_item_on() {
    let product = product();
    let item = |input: &str| ItemSubmission {
        submission: submission("demo.sleep", input),
        name: None,
        after: Vec::new(),
        on_failure: OnFailure::Cancel,
    };
    let batch = BatchSubmission {
        name: Some("two".to_owned()),
        items: vec![item(r#"{"seconds":1}"#), item(r#"{"seconds":60}"#)],
        then: Vec::new(),
        metadata: None,
        idempotency: None,
    };
    let admitted = product.tasks.submit_batch(&Tenant::default(), batch).await.expect("submitted");
    let (admission, items) = admitted.expect("an answer");
    let id = admission.task().expect("a task").id;
    assert_eq!(product.read(id).await.status, Status::Scheduled);
    let counts = while_running(&product, async {
        product.end_of(items[0]).await;
        let standing = product.read(id).await.status;
        assert_eq!(standing, Status::Processing);
        let filter = TaskFilter::default();
        let page = ListPage { before: None, limit: 10 };
        let listed = product.tasks.list(&Tenant::default(), &filter, page).await.expect("listed");
        assert_eq!(listed.last().map(|task| task.status), Some(Status::Processing));
        // A running item is asked to stop with the batch.
        product.tasks.cancel(&Tenant::default(), id).await.expect("cancelled");
        product.end_of(items[1]).await;
        product.tasks.batch(&Tenant::default(), id).await.expect("read").expect("known").1
    })
    .await;
    assert_eq!((counts.completed, counts.cancelled), (1, 1));
    assert_eq!(product.read(id).await.status, Status::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn a_retry_of_a_batch_is_one_of_what_did_not_complete() {
    let product = product();
    let item = |input: &str| ItemSubmission {
        submission: submission("demo.simple_calculation", input),
        name: NodeName::new("x").ok().filter(|_| input.contains("20")),
        after: Vec::new(),
        on_failure: OnFailure::Cancel,
    };
    let items =
        vec![item(r#"{"x":10,"y":20,"operation":"add"}"#), item(r#"{"x":1,"y":0,"operation":"divide"}"#)];
    let batch = BatchSubmission { name: None, items, then: Vec::new(), metadata: None, idempotency: None };
    let admitted = product.tasks.submit_batch(&Tenant::default(), batch).await.expect("submitted");
    let (admission, items) = admitted.expect("an answer");
    let id: TaskId = admission.task().expect("a task").id;
    while_running(&product, async {
        assert_eq!(product.end_of(id).await.status, Status::Failed);
        let retry = crate::ports::Retry { id, input: None };
        product.tasks.retry(&Tenant::default(), retry).await.expect("again");
        product.end_of(items[1]).await;
    })
    .await;
    assert_eq!((product.read(items[0]).await.attempt, product.read(items[1]).await.attempt), (1, 2));
}

#[tokio::test(start_paused = true)]
async fn who_watches_a_batch_is_told_how_its_items_stand() {
    let product = product();
    let item = |seconds: u64| ItemSubmission {
        submission: submission("demo.sleep", &format!(r#"{{"seconds":{seconds}}}"#)),
        name: None,
        after: Vec::new(),
        on_failure: OnFailure::Cancel,
    };
    let items = vec![item(5), item(60)];
    let batch = BatchSubmission { name: None, items, then: Vec::new(), metadata: None, idempotency: None };
    let admitted = product.tasks.submit_batch(&Tenant::default(), batch).await.expect("submitted");
    let id = admitted.expect("an answer").0.task().expect("a task").id;
    let events = product.tasks.watch_batch(&Tenant::default(), id).await.expect("read").expect("known");
    let events: Vec<BatchEvent> = while_running(&product, events.collect()).await;
    let state = |event: &BatchEvent| match event {
        BatchEvent::Task(TaskEvent::State(task)) => Some(task.status),
        _ => None,
    };
    let states: Vec<Status> = events.iter().filter_map(state).collect();
    assert_eq!(states, [Status::Scheduled, Status::Processing, Status::Completed]);
    let counts = |event: &BatchEvent| match event {
        BatchEvent::Counts(counts) => Some((counts.pending, counts.processing, counts.completed)),
        _ => None,
    };
    let told: Vec<_> = events.iter().filter_map(counts).collect();
    assert_eq!(told, [(2, 0, 0), (0, 2, 0), (0, 1, 1), (0, 0, 2)], "each change once");
    let last = events.len() - 1;
    assert_eq!((state(&events[0]), counts(&events[1])), (Some(Status::Scheduled), Some((2, 0, 0))));
    assert_eq!((counts(&events[last - 1]), state(&events[last])), (Some((0, 0, 2)), Some(Status::Completed)));
    let unknown = product.tasks.watch_batch(&Tenant::default(), TaskId(99)).await;
    assert!(unknown.expect("read").is_none());
}

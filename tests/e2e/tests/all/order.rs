//! Who goes next.

use e2e_tests::{Base, api, on_both_bases};
use futures_util::StreamExt;
use serde_json::{Value, json};

on_both_bases!(
    priorities_hold_and_equals_go_first_in_first_out,
    a_flood_of_long_tasks_in_one_queue_does_not_hold_up_another,
    a_worker_serves_the_queues_that_it_was_given,
);

async fn priorities_hold_and_equals_go_first_in_first_out(base: Base) {
    let product = base.setup().set("WORKER_CONCURRENCY", "1").start().await;
    let api = product.api();
    let first = api.submit_type("demo.sleep", json!({ "seconds": 1 })).await;
    api.reaches(first, "PROCESSING").await;
    let mut expected = Vec::new();
    for priority in [9, 5, 0, 5, 9, 0, 5] {
        let body = json!({ "type": "demo.noop", "priority": priority });
        expected.push((priority, api::id(&api.submit(body).await)));
    }
    assert_eq!(api.task(first).await["status"], "PROCESSING", "all of them were submitted while it ran");
    expected.sort_unstable();

    let mut started = Vec::new();
    for (priority, id) in &expected {
        let task = api.completed(*id).await;
        started.push((task["started_at"].as_str().expect("a time").to_owned(), *priority, *id));
    }
    started.sort_unstable();
    let started: Vec<_> = started.into_iter().map(|(_, priority, id)| (priority, id)).collect();
    assert_eq!(started, expected);
}

async fn a_flood_of_long_tasks_in_one_queue_does_not_hold_up_another(base: Base) {
    const FLOOD: usize = 2000;
    // Longer than anybody here waits: what is not served beside the flood is not served in time.
    const SECONDS: u32 = 300;
    let product = base.start().await;
    let api = product.api();
    let submissions = (0..FLOOD).map(|_| api.submit_type("demo.sleep", json!({ "seconds": SECONDS })));
    futures_util::stream::iter(submissions).buffer_unordered(32).collect::<Vec<_>>().await;
    let stats = api.get("/stats").await;
    assert!(stats["tasks"]["pending"].as_i64().is_some_and(|n| n > 0), "the flood fills the worker: {stats}");

    for body in [json!({ "prompt": "Hi" }), json!({ "type": "demo.noop", "queue": "later" })] {
        api.completed(api::id(&api.submit(body).await)).await;
    }
    let stats = api.get("/stats").await;
    assert!(stats["tasks"]["pending"].as_i64().is_some_and(|n| n > 0), "the flood still waits: {stats}");
}

async fn a_worker_serves_the_queues_that_it_was_given(base: Base) {
    let product = base.setup().set("WORKER_QUEUES", "urgent,reports").start().await;
    let api = product.api();
    let elsewhere = api.submit_type("demo.noop", Value::Null).await;
    for queue in ["urgent", "reports"] {
        let id = api::id(&api.submit(json!({ "type": "demo.noop", "queue": queue })).await);
        assert_eq!(api.completed(id).await["queue"], queue);
    }
    // Those were submitted later and have ended.
    assert_eq!(api.task(elsewhere).await["status"], "PENDING");
}

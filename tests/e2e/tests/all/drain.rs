//! SIGTERM: what runs is finished or given back.

use std::time::Duration;

use e2e_tests::{Base, api, on_both_bases};
use serde_json::json;
use tokio::time::Instant;

on_both_bases!(
    a_drain_finishes_short_tasks_and_gives_long_ones_back_uncharged,
    a_second_signal_stops_at_once,
);

async fn a_drain_finishes_short_tasks_and_gives_long_ones_back_uncharged(base: Base) {
    let mut product = base.setup().set("SHUTDOWN_GRACE", "2s").start().await;
    let api = product.api();
    // With one attempt, a failure that is charged would end it.
    let long = json!({ "type": "demo.sleep", "input": { "seconds": 4 }, "max_attempts": 1 });
    let long = api::id(&api.submit(long).await);
    let short = api.submit_type("demo.sleep", json!({ "seconds": 1 })).await;
    api.reaches(long, "PROCESSING").await;
    api.reaches(short, "PROCESSING").await;

    product.worker().terminate();
    let status = product.worker().ends_within(Duration::from_secs(8)).await;
    assert_eq!(status.code(), Some(0), "a drain is a success");
    let log = product.worker().log();
    assert!(log.contains("drained"), "{log}");

    product.start_again().await;
    let api = product.api();
    let task = api.task(short).await;
    assert_eq!((&task["status"], &task["attempt"]), (&json!("COMPLETED"), &json!(1)), "{task}");
    assert_eq!(api.completed(long).await["attempt"], 2);
    assert_eq!(api.outcomes(long).await, ["RELEASED", "COMPLETED"]);
}

async fn a_second_signal_stops_at_once(base: Base) {
    let mut product = base.setup().set("SHUTDOWN_GRACE", "60s").set("LEASE_SECONDS", "3").start().await;
    let api = product.api();
    let id = api.submit_type("demo.sleep", json!({ "seconds": 2 })).await;
    api.reaches(id, "PROCESSING").await;
    product.worker().terminate();
    product.worker().writes("stopping").await;
    assert!(product.worker().ended().is_none(), "the first signal waits for what runs");
    product.worker().terminate();
    let asked = Instant::now();
    let status = product.worker().ends_within(Duration::from_secs(5)).await;
    assert_eq!(status.code(), Some(130), "after {:?}", asked.elapsed());

    // What was running is taken over as after a crash.
    product.start_again().await;
    let api = product.api();
    assert_eq!(api.completed(id).await["attempt"], 2);
    assert_eq!(api.outcomes(id).await, ["CRASHED", "COMPLETED"]);
}

#[tokio::test]
async fn an_api_process_ends_in_good_order_too() {
    let mut product = Base::PostgresAndRedis.start().await;
    let api = product.api();
    let id = api.submit_type("demo.sleep", json!({ "seconds": 30 })).await;
    api.reaches(id, "PROCESSING").await;
    // A reader of live events does not hold it up.
    let mut events = api.events(id, None).await;
    events.next_of("state").await;
    product.front.terminate();
    let status = product.front.ends_within(Duration::from_secs(5)).await;
    assert_eq!(status.code(), Some(0));
    assert!(events.rest().await.iter().all(|event| event.data["status"] != "COMPLETED"));
}

//! A cancelled task really stops, and its call to the model with it.

use std::time::Duration;

use e2e_tests::{Base, Noticed, Provider, Reply, api, on_both_bases};
use serde_json::{Value, json};
use tokio::time::Instant;

on_both_bases!(
    cancelling_a_running_text_task_closes_its_call_to_the_model,
    a_waiting_task_is_cancelled_at_once,
    an_ended_task_cannot_be_cancelled,
    time_limits_end_a_task,
);

async fn cancelling_a_running_text_task_closes_its_call_to_the_model(base: Base) {
    let mut provider = Provider::start(vec![Reply::Endless]).await;
    let product = base.setup().set("OPENAI_BASE_URL", &provider.base_url()).start().await;
    let api = product.api();
    let id = api::id(&api.submit(json!({ "prompt": "Count to infinity" })).await);
    assert!(matches!(provider.notices().await, Noticed::Request { .. }));
    let mut events = api.events(id, None).await;
    events.next_of("chunk").await;

    let asked = Instant::now();
    let answer = api.cancel(id).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    // Its worker may have been quicker than the answer.
    let stopping = answer.body["cancel_requested"] == true || answer.body["status"] == "CANCELLED";
    assert!(stopping, "{}", answer.body);
    assert_eq!(provider.notices().await, Noticed::Closed);
    let closed = asked.elapsed();
    let task = api.ended(id).await;
    let ended = asked.elapsed();
    assert_eq!((&task["status"], &task["attempt"]), (&json!("CANCELLED"), &json!(1)), "{task}");
    assert!(closed < Duration::from_secs(2) && ended < Duration::from_secs(3), "{closed:?}, {ended:?}");
    assert_eq!(api.outcomes(id).await, ["CANCELLED"]);
    let last = events.rest().await.pop().expect("a last event");
    assert_eq!((last.name.as_str(), &last.data["status"]), ("state", &json!("CANCELLED")));
}

async fn a_waiting_task_is_cancelled_at_once(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let id = api::id(&api.submit(json!({ "type": "demo.noop", "delay_seconds": 3600 })).await);
    let answer = api.cancel(id).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body["status"]),
        (200, &json!("CANCELLED")),
        "{}",
        answer.body
    );
    assert_eq!(api.task(id).await["attempt"], 0);
    // Nobody serves its queue, so this one waits as PENDING.
    let product = base.setup().set("WORKER_QUEUES", "demo_tasks").start().await;
    let api = product.api();
    let id = api::id(&api.submit(json!({ "type": "demo.noop", "queue": "nobody" })).await);
    let watching = api.events(id, None).await;
    let answer = api.cancel(id).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body["status"]),
        (200, &json!("CANCELLED")),
        "{}",
        answer.body
    );
    let states: Vec<_> =
        watching.rest().await.into_iter().map(|event| event.data["status"].clone()).collect();
    assert_eq!(states, ["PENDING", "CANCELLED"]);
}

async fn an_ended_task_cannot_be_cancelled(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let id = api.submit_type("demo.noop", Value::Null).await;
    api.completed(id).await;
    let answer = api.cancel(id).await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (409, "application/problem+json"));
    assert!(answer.body["detail"].as_str().is_some_and(|text| text.contains("COMPLETED")), "{}", answer.body);
    assert_eq!(api.task(id).await["status"], "COMPLETED");
    assert_eq!(api.cancel(id + 1000).await.status, 404);
}

async fn time_limits_end_a_task(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let hard = json!({
        "type": "demo.sleep", "input": { "seconds": 60 }, "time_limit_seconds": 0.5, "max_attempts": 1
    });
    let soft = json!({
        "type": "demo.sleep", "input": { "seconds": 60 }, "soft_time_limit_seconds": 0.5,
        "time_limit_seconds": 50, "max_attempts": 1
    });
    let (hard, soft) = (api::id(&api.submit(hard).await), api::id(&api.submit(soft).await));
    for (id, code) in [(hard, "time_limit"), (soft, "soft_time_limit")] {
        let task = api.ended(id).await;
        assert_eq!((&task["status"], &task["error"]["code"]), (&json!("FAILED"), &json!(code)), "{task}");
        assert_eq!(api.outcomes(id).await, ["TIMED_OUT"]);
    }
}

//! Not before, and not after.

use std::time::Duration;

use chrono::{DateTime, Utc};
use e2e_tests::{Api, Base, api, on_both_bases};
use serde_json::{Value, json};

on_both_bases!(
    a_delayed_task_waits_as_scheduled_and_then_runs,
    a_task_with_a_moment_waits_for_it,
    a_task_that_nobody_starts_in_time_expires,
);

fn moment(value: &Value) -> DateTime<Utc> {
    value.as_str().and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("{value} is no time"))
}

async fn server_time(api: &Api) -> DateTime<Utc> {
    moment(&api.get("/health").await["timestamp"])
}

fn written(moment: DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(chrono::SecondsFormat::Micros, true)
}

async fn runs_no_earlier(api: &Api, submitted: &Value) {
    assert_eq!(submitted["status"], "SCHEDULED", "{submitted}");
    let due = moment(&submitted["run_at"]);
    let task = api.completed(api::id(submitted)).await;
    let started = moment(&task["started_at"]);
    assert!(started >= due, "started at {started}, due at {due}");
    let late = (started - due).to_std().expect("not negative");
    assert!(late < Duration::from_secs(3), "it started {late:?} late");
}

async fn a_delayed_task_waits_as_scheduled_and_then_runs(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let task = api.submit(json!({ "type": "demo.noop", "delay_seconds": 1.2 })).await;
    let waits = moment(&task["run_at"]) - moment(&task["created_at"]);
    assert_eq!(waits.num_milliseconds(), 1200, "{task}");
    assert_eq!(api.task(api::id(&task)).await["status"], "SCHEDULED");
    runs_no_earlier(&api, &task).await;
}

async fn a_task_with_a_moment_waits_for_it(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let run_at = server_time(&api).await + Duration::from_millis(1200);
    let task = api.submit(json!({ "type": "demo.noop", "run_at": written(run_at) })).await;
    assert_eq!(moment(&task["run_at"]), run_at);
    runs_no_earlier(&api, &task).await;
    let past = written(run_at - Duration::from_secs(3600));
    let task = api.submit(json!({ "type": "demo.noop", "run_at": past })).await;
    assert_eq!(task["status"], "PENDING", "a moment that has passed is now: {task}");
    api.completed(api::id(&task)).await;
}

async fn a_task_that_nobody_starts_in_time_expires(base: Base) {
    let product = base.setup().set("WORKER_CONCURRENCY", "1").start().await;
    let api = product.api();
    let busy = api.submit_type("demo.sleep", json!({ "seconds": 2.5 })).await;
    api.reaches(busy, "PROCESSING").await;
    let expires_at = server_time(&api).await + Duration::from_millis(700);
    let late = api.submit(json!({ "type": "demo.noop", "expires_at": written(expires_at) })).await;
    let in_time = written(expires_at + Duration::from_secs(3600));
    let in_time = api.submit(json!({ "type": "demo.noop", "expires_at": in_time })).await;
    let watching = api.events(api::id(&late), None).await;

    let task = api.ended(api::id(&late)).await;
    assert_eq!((&task["status"], &task["attempt"]), (&json!("EXPIRED"), &json!(0)), "{task}");
    assert_eq!(task["error"]["code"], "expired", "{task}");
    assert!(moment(&task["completed_at"]) >= expires_at, "{task}");
    assert_eq!(watching.rest().await.pop().map(|event| event.data["status"].clone()), Some(json!("EXPIRED")));
    assert_eq!(api.completed(busy).await["attempt"], 1);
    assert_eq!(api.completed(api::id(&in_time)).await["attempt"], 1);
}

//! Retries, retention and bounds: what a submission can ask for, and what the configuration says.

use e2e_tests::{Base, api, on_both_bases};
use reqwest::Method;
use serde_json::json;

on_both_bases!(
    mission_retries_countdown_and_max_retries,
    mission_retries_are_chosen_by_error_class,
    mission_isolation_a_panic_ends_its_own_attempt_alone,
    mission_result_expiry_is_per_task,
    inputs_and_results_are_bounded,
);

/// `countdown=…, max_retries=3`: four runs with the same pause between them.
async fn mission_retries_countdown_and_max_retries(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let retry = json!({ "backoff": "fixed", "delay_seconds": 0.05 });
    let flaky = json!({
        "type": "demo.flaky", "input": { "failures": 3 }, "max_attempts": 4, "retry": retry
    });
    let task = api.submit(flaky).await;
    assert_eq!(task["retry"]["delay_seconds"], 0.05, "{task}");
    let task = api.completed(api::id(&task)).await;
    assert_eq!((&task["attempt"], &task["result"]["attempts"]), (&json!(4), &json!(4)), "{task}");
    assert_eq!(api.outcomes(api::id(&task)).await, ["FAILED", "FAILED", "FAILED", "COMPLETED"]);
}

async fn mission_retries_are_chosen_by_error_class(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let task = api
        .submit(json!({
            "type": "demo.flaky", "input": { "failures": 1, "class": "timed_out" },
            "retry": { "delay_seconds": 0, "max_delay_seconds": 0, "on": ["transient"] }
        }))
        .await;
    let task = api.ended(api::id(&task)).await;
    assert_eq!((&task["status"], &task["attempt"]), (&json!("FAILED"), &json!(1)), "{task}");
    let wrong = json!({ "type": "demo.noop", "retry": { "on": ["luck"] } });
    let refused = api.send(Method::POST, "/tasks", Some(&wrong)).await;
    assert_eq!(refused.status, 422, "{}", refused.body);
    assert_eq!(refused.body["errors"][0]["field"], "retry.on");
}

async fn mission_isolation_a_panic_ends_its_own_attempt_alone(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let crash = api.submit(json!({ "type": "demo.crash", "max_attempts": 1 })).await;
    let neighbour = api.submit_type("demo.sleep", json!({ "seconds": 0.2 })).await;
    let crash = api.ended(api::id(&crash)).await;
    assert_eq!((&crash["status"], &crash["error"]["code"]), (&json!("FAILED"), &json!("panic")), "{crash}");
    assert_eq!(api.completed(neighbour).await["attempt"], 1);
    let abort = json!({ "type": "demo.crash", "input": { "abort": true } });
    let refused = api.send(Method::POST, "/tasks", Some(&abort)).await;
    assert_eq!(refused.status, 422, "{}", refused.body);
}

async fn mission_result_expiry_is_per_task(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let brief = api.submit(json!({ "type": "demo.noop", "retention_seconds": 0.05 })).await;
    let kept = api.submit(json!({ "type": "demo.noop", "retention_seconds": 3600 })).await;
    assert_eq!(kept["retention_seconds"], 3600.0, "{kept}");
    api.completed(api::id(&kept)).await;
    api.is_gone(api::id(&brief)).await;
    assert_eq!(api.task(api::id(&kept)).await["status"], "COMPLETED");
}

async fn inputs_and_results_are_bounded(base: Base) {
    let product = base.setup().set("MAX_INPUT", "4KB").set("MAX_RESULT", "3KB").start().await;
    let api = product.api();
    let big = json!({ "type": "demo.echo", "input": "x".repeat(4_000) });
    let refused = api.send(Method::POST, "/tasks", Some(&big)).await;
    assert_eq!(refused.status, 422, "{}", refused.body);
    let message = refused.body["errors"][0]["message"].as_str().unwrap_or_default().to_owned();
    assert!(message.contains("4002 bytes") && message.contains("4000"), "{message}");
    let id = api.submit_type("demo.echo", json!("x".repeat(3_500))).await;
    let task = api.ended(id).await;
    assert_eq!((&task["status"], &task["attempt"]), (&json!("FAILED"), &json!(1)), "{task}");
    assert_eq!(task["error"]["code"], "result_too_large", "{task}");
}

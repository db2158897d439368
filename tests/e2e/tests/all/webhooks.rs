//! Completion webhooks: whoever asked is told how a task ended.

use e2e_tests::{Base, Receiver, Taken, api, on_both_bases};
use reqwest::Method;
use serde_json::{Value, json};

use crate::publishing::{setup, verified};

on_both_bases!(
    publishing_the_end_of_a_task_to_its_callback_url,
    publishing_the_end_of_a_task_goes_on_after_a_crash_and_a_refusal,
    publishing_the_end_of_a_task_refuses_callbacks_inside,
);

async fn publishing_the_end_of_a_task_to_its_callback_url(base: Base) {
    let mut receiver = Receiver::start(vec![]).await;
    let product = setup(base).start().await;
    let api = product.api();
    let divide = |y: i32| json!({ "x": 6, "y": y, "operation": "divide" });
    for (task_type, input, event) in [
        ("demo.simple_calculation", divide(3), "task.completed"),
        ("demo.simple_calculation", divide(0), "task.failed"),
        ("demo.sleep", json!({ "seconds": 300 }), "task.cancelled"),
    ] {
        let url = receiver.url("/done");
        let id =
            api::id(&api.submit(json!({ "type": task_type, "input": input, "callback_url": url })).await);
        if event == "task.cancelled" {
            api.reaches(id, "PROCESSING").await;
            api.cancel(id).await;
        }
        let task = api.ended(id).await;
        let message = receiver.next().await;
        verified(&message);
        let body = message.json();
        assert_eq!((&body["type"], &body["timestamp"]), (&json!(event), &task["completed_at"]), "{body}");
        for field in ["id", "type", "status", "result", "attempt", "created_at", "started_at", "completed_at"]
        {
            assert_eq!(body["data"][field], task[field], "{field} of {body}");
        }
        assert_eq!(body["data"]["error"]["code"], task["error"]["code"]);
    }
    // Of the others, only what was asked for.
    let quiet =
        json!({ "type": "demo.noop", "callback_url": receiver.url("/"), "callback_events": ["task.failed"] });
    api.completed(api::id(&api.submit(quiet).await)).await;
    let webhooks = api.get("/tasks?type=webhook.deliver&limit=1").await["items"][0].clone();
    let webhook = api.completed(api::id(&webhooks)).await;
    assert!(webhook["result"]["skipped"].is_string(), "{webhook}");
    assert!(receiver.rest().is_empty());
    let types = api.get("/task-types").await["items"].to_string();
    assert!(types.contains("publish.single") && !types.contains("webhook.deliver"), "{types}");
}

async fn publishing_the_end_of_a_task_goes_on_after_a_crash_and_a_refusal(base: Base) {
    let mut receiver = Receiver::start(vec![Taken::Never, Taken::Status("500 Internal Server Error")]).await;
    let mut product = setup(base).set("LEASE_SECONDS", "2").start().await;
    let task = json!({ "type": "demo.echo", "input": "kept", "callback_url": receiver.url("/") });
    let id = api::id(&product.api().submit(task).await);
    let first = receiver.next().await;
    product.worker().kill();
    product.start_again().await;
    // The second try is refused; the third comes five seconds later.
    let again = [receiver.next().await, receiver.next().await];
    for message in &again {
        assert_eq!(verified(message), verified(&first), "the same message");
        assert_eq!(message.body, first.body);
        assert_eq!(
            (&message.json()["data"]["id"], &message.json()["data"]["result"]),
            (&json!(id), &json!("kept"))
        );
    }
}

async fn publishing_the_end_of_a_task_refuses_callbacks_inside(base: Base) {
    let product = base.start().await;
    let api = product.api();
    for (url, part) in [
        ("http://169.254.169.254/", "metadata"),
        ("http://localhost:8080/", "loopback"),
        ("ftp://example.org/", "ftp:"),
        ("https://me:sesame@example.org/", "user name"),
    ] {
        let task = json!({ "type": "demo.noop", "callback_url": url });
        let refused = api.send(Method::POST, "/tasks", Some(&task)).await;
        assert_eq!(refused.status, 422, "{url}: {}", refused.body);
        assert_eq!(refused.body["errors"][0]["field"], "callback_url", "{}", refused.body);
        let message = refused.body["errors"][0]["message"].as_str().unwrap_or_default();
        assert!(message.contains(part) && !message.contains("sesame"), "{url}: {message}");
    }
    assert_eq!(api.get("/tasks").await["items"], Value::Array(vec![]), "nothing was stored");
}

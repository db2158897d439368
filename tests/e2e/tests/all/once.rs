//! Submitting once: asking again is safe, and a unique task has no twin.

use std::sync::Arc;

use e2e_tests::{Answer, Api, Base, api, on_both_bases};
use reqwest::Method;
use serde_json::{Value, json};

on_both_bases!(
    a_hundred_equal_submissions_make_one_task_also_across_a_restart,
    a_unique_task_waits_for_its_twin_to_end,
);

async fn ask(api: &Api, key: &str, body: &Value) -> Answer {
    let headers = [("content-type", "application/json"), ("idempotency-key", key)];
    api.send_raw(Method::POST, "/tasks", &headers, body.to_string().as_bytes()).await
}

async fn a_hundred_equal_submissions_make_one_task_also_across_a_restart(base: Base) {
    let mut product = base.start().await;
    let api = product.api();
    let body = Arc::new(json!({ "type": "demo.noop", "metadata": { "order": 7 } }));
    let asking: Vec<_> = (0..100)
        .map(|_| {
            let (api, body) = (api.clone(), Arc::clone(&body));
            tokio::spawn(async move { ask(&api, "order-7", &body).await })
        })
        .collect();
    let mut answers = Vec::new();
    for answer in asking {
        answers.push(answer.await.expect("no panic"));
    }
    assert!(answers.iter().all(|answer| answer.status == 201), "{answers:?}");
    assert!(answers.iter().all(|answer| answer.body == answers[0].body), "each is the first answer");
    let new = answers.iter().filter(|answer| answer.header("idempotency-replayed").is_empty()).count();
    assert_eq!(new, 1);
    api.completed(api::id(&answers[0].body)).await;

    product.kill();
    product.start_again().await;
    let again = ask(&product.api(), "order-7", &body).await;
    assert_eq!((again.status.as_u16(), again.header("idempotency-replayed")), (201, "true"));
    assert_eq!(again.body, answers[0].body, "as it was then");
    let other = ask(&product.api(), "order-7", &json!({ "type": "demo.noop" })).await;
    assert_eq!(other.status, 422, "{}", other.body);
    assert_eq!(product.api().get("/tasks?limit=10").await["items"].as_array().map(Vec::len), Some(1));
}

async fn a_unique_task_waits_for_its_twin_to_end(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let report = json!({ "type": "demo.sleep", "input": { "seconds": 30 }, "unique_key": "report 2026" });
    let first = api::id(&api.submit(report.clone()).await);
    let twin = api.send(Method::POST, "/tasks", Some(&report)).await;
    assert_eq!((twin.status.as_u16(), api::id(&twin.body)), (200, first));
    api.reaches(first, "PROCESSING").await;
    let twin = api.send(Method::POST, "/tasks", Some(&report)).await;
    assert_eq!((twin.status.as_u16(), api::id(&twin.body)), (200, first));
    api.send(Method::POST, &format!("/tasks/{first}/cancel"), None).await;
    api.ended(first).await;
    assert_ne!(api::id(&api.submit(report).await), first);
}

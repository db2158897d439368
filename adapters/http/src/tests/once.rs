//! Submitting once, and not too much.

use super::*;

const BODY: &str = r#"{"type":"demo.noop","priority":3}"#;

async fn send(client: &Client, key: &str, body: &str) -> TestResponse {
    let request = client.post("/api/v1/tasks").content_type("application/json");
    request.header("Idempotency-Key", key).body(body.to_owned()).send().await
}

#[tokio::test]
async fn asking_again_gets_the_first_answer() {
    let client = client();
    let first = send(&client, "abc", BODY).await;
    first.assert_status(StatusCode::CREATED);
    assert_eq!(first.0.header("idempotency-replayed"), None);
    let first: Value = first.json().await.value().deserialize();
    let cancelled = client.post("/api/v1/tasks/1/cancel").send().await;
    cancelled.assert_status_is_ok();
    for key in ["abc", "\"abc\""] {
        let again = send(&client, key, BODY).await;
        again.assert_status(StatusCode::CREATED);
        again.assert_header("idempotency-replayed", "true");
        again.assert_header("location", "/api/v1/tasks/1");
        assert_eq!(again.json().await.value().deserialize::<Value>(), first, "as it was then");
    }
    send(&client, "abd", BODY).await.assert_header("location", "/api/v1/tasks/2");
}

#[tokio::test]
async fn a_key_belongs_to_one_request() {
    let client = client();
    send(&client, "abc", BODY).await.assert_status(StatusCode::CREATED);
    let other =
        problem(send(&client, "abc", r#"{"type":"demo.noop"}"#).await, StatusCode::UNPROCESSABLE_ENTITY)
            .await;
    assert_eq!(other["errors"][0]["field"], "Idempotency-Key");
    assert!(other["detail"].as_str().is_some_and(|detail| detail.contains("task 1")), "{other}");
    let bad = problem(send(&client, "two words", BODY).await, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(bad["errors"][0]["field"], "Idempotency-Key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_equal_submissions_make_one_task() {
    let client = Arc::new(client());
    let sending: Vec<_> = (0..100)
        .map(|_| {
            let client = Arc::clone(&client);
            tokio::spawn(async move {
                let answer = send(&client, "the-same", BODY).await;
                answer.assert_status(StatusCode::CREATED);
                let replayed = answer.0.header("idempotency-replayed").is_some();
                (answer.json().await.value().object().get("id").i64(), replayed)
            })
        })
        .collect();
    let mut new = 0;
    for sent in sending {
        let (id, replayed) = sent.await.expect("no panic");
        assert_eq!(id, 1);
        new += usize::from(!replayed);
    }
    assert_eq!(new, 1);
}

#[tokio::test]
async fn a_unique_task_is_answered_with_the_one_in_its_way() {
    let client = client();
    let report = json!({ "type": "demo.noop", "unique_key": "report 7" });
    let first = submit(&client, report.clone()).await;
    assert_eq!(first["unique_key"], "report 7");
    let second = client.post("/api/v1/tasks").body_json(&report).send().await;
    second.assert_status_is_ok();
    second.assert_header("location", "/api/v1/tasks/1");
    assert_eq!(second.json().await.value().object().get("id").i64(), 1);
    client.post("/api/v1/tasks/1/cancel").send().await.assert_status_is_ok();
    assert_eq!(submit(&client, report.clone()).await["id"], 2, "the first has ended");
    let ever = json!({ "type": "demo.noop", "unique_key": "report 7", "unique_states": ["CANCELLED"] });
    let found = client.post("/api/v1/tasks").body_json(&ever).send().await;
    found.assert_status_is_ok();
    found.assert_header("location", "/api/v1/tasks/1");
    for (body, field) in [
        (json!({ "type": "demo.noop", "unique_states": ["PENDING"] }), "unique_key"),
        (json!({ "type": "demo.noop", "unique_key": "" }), "unique_key"),
        (json!({ "type": "demo.noop", "unique_key": "a", "unique_states": [] }), "unique_states"),
        (json!({ "type": "demo.noop", "unique_key": "a", "unique_states": ["DONE"] }), "unique_states"),
        (
            json!({ "type": "demo.noop", "unique_key": "a", "unique_window_seconds": 0 }),
            "unique_window_seconds",
        ),
    ] {
        let answer = client.post("/api/v1/tasks").body_json(&body).send().await;
        let refused = problem(answer, StatusCode::UNPROCESSABLE_ENTITY).await;
        assert_eq!(refused["errors"][0]["field"], field, "{body}");
    }
}

#[tokio::test]
async fn a_tenant_with_too_many_waiting_is_told_when_to_come_again() {
    let now = DateTime::from_timestamp(1_800_000_000, 0).expect("a moment");
    let store = Arc::new(MemoryStore::new(now));
    let client = client_over(store.clone(), store, ApiConfig::default(), Some(2));
    for _ in 0..2 {
        submit(&client, json!({ "type": "demo.noop" })).await;
    }
    let full = client.post("/api/v1/tasks").body_json(&json!({ "type": "demo.noop" })).send().await;
    full.assert_header("retry-after", "2");
    problem(full, StatusCode::TOO_MANY_REQUESTS).await;
}

#[tokio::test]
async fn more_requests_than_there_are_places_for_are_sent_away() {
    let now = DateTime::from_timestamp(1_800_000_000, 0).expect("a moment");
    let store = Arc::new(MemoryStore::new(now));
    let config = ApiConfig { max_requests: 0, ..ApiConfig::default() };
    let client = client_over(store.clone(), store, config, None);
    let answer = client.get("/api/v1/tasks/1").send().await;
    answer.assert_header("retry-after", "1");
    problem(answer, StatusCode::SERVICE_UNAVAILABLE).await;
    // Those who wait for a task's end have places of their own.
    problem(client.get("/api/v1/tasks/1?wait=1ms").send().await, StatusCode::NOT_FOUND).await;
}

//! Queues, and another priority for what waits in them. No worker runs here.

use super::*;

async fn get(client: &Client, path: &str) -> Value {
    let answer = client.get(format!("/api/v1{path}")).send().await;
    answer.assert_status_is_ok();
    answer.json().await.value().deserialize()
}

async fn post(client: &Client, path: &str) -> Value {
    let answer = client.post(format!("/api/v1{path}")).send().await;
    answer.assert_status_is_ok();
    answer.json().await.value().deserialize()
}

#[tokio::test]
async fn a_queue_shows_its_routes_counts_and_what_is_wrong_with_it() {
    let client = client();
    submit(&client, json!({ "prompt": "Hi" })).await;
    submit(&client, json!({ "prompt": "Hi", "delay_seconds": 60 })).await;
    let shown = get(&client, "/queues/ai_processing").await;
    assert_eq!(shown["patterns"], json!(["ai.*"]));
    assert_eq!((&shown["tasks"]["pending"], &shown["tasks"]["scheduled"]), (&json!(1), &json!(1)));
    assert_eq!(
        (&shown["paused"], &shown["workers"], &shown["is_default"]),
        (&json!(false), &json!(0), &json!(false))
    );
    assert_eq!(shown["oldest_waiting_seconds"], json!(0.0));
    assert!(shown["warning"].as_str().is_some_and(|warning| warning.contains("no living worker")), "{shown}");
    let nothing = json!({
        "minutes": 5, "ended": 0, "failed": 0, "per_minute": 0.0, "failure_rate": null, "mean_seconds": null,
        "p95_seconds": null
    });
    assert_eq!(shown["recent"], nothing);
    let all = get(&client, "/queues").await;
    let names: Vec<_> = all["items"].as_array().expect("a list").iter().map(|queue| &queue["name"]).collect();
    assert_eq!(names, ["ai_processing", "default", "demo_tasks", "notifications", "reports", "urgent"]);
    for (path, status) in
        [("/queues/nowhere", StatusCode::NOT_FOUND), ("/queues/a%20b", StatusCode::UNPROCESSABLE_ENTITY)]
    {
        problem(client.get(format!("/api/v1{path}")).send().await, status).await;
    }
}

#[tokio::test]
async fn a_queue_is_paused_resumed_and_purged() {
    let client = client();
    let task = submit(&client, json!({ "prompt": "Hi" })).await;
    assert_eq!(post(&client, "/queues/ai_processing/pause").await["paused"], true);
    assert_eq!(post(&client, "/queues/ai_processing/pause").await["paused"], true, "again is fine");
    assert_eq!(get(&client, "/queues/ai_processing").await["paused"], true);
    assert_eq!(post(&client, "/queues/ai_processing/resume").await["paused"], false);
    assert_eq!(post(&client, "/queues/new-one/pause").await["paused"], true, "before it has a task");
    assert_eq!(post(&client, "/queues/ai_processing/purge").await, json!({ "purged": 1, "more": false }));
    let ended = get(&client, &format!("/tasks/{}", task["id"])).await;
    assert_eq!((&ended["status"], &ended["error"]["code"]), (&json!("CANCELLED"), &json!("purged")));
    problem(client.post("/api/v1/queues/nowhere/resume").send().await, StatusCode::NOT_FOUND).await;
    for path in ["/queues/a%20b/pause", "/queues/a%20b/purge"] {
        let refused = client.post(format!("/api/v1{path}")).send().await;
        problem(refused, StatusCode::UNPROCESSABLE_ENTITY).await;
    }
}

#[tokio::test]
async fn a_waiting_task_gets_another_priority_and_others_do_not() {
    let client = client();
    let id = submit(&client, json!({ "prompt": "Hi", "priority": 5 })).await["id"].clone();
    let patch = async |id: &Value, body: Value| {
        client.patch(format!("/api/v1/tasks/{id}")).body_json(&body).send().await
    };
    let changed = patch(&id, json!({ "priority": 0 })).await;
    changed.assert_status_is_ok();
    let changed: Value = changed.json().await.value().deserialize();
    assert_eq!((&changed["priority"], &changed["status"]), (&json!(0), &json!("PENDING")));
    assert_eq!(get(&client, &format!("/tasks/{id}")).await["priority"], 0);
    for (body, field) in [
        (json!({}), "priority"),
        (json!({ "priority": null }), "priority"),
        (json!({ "priority": 10 }), "priority"),
        (json!({ "priority": "high" }), "priority"),
        (json!({ "priority": 1, "queue": "other" }), "queue"),
    ] {
        let refused = problem(patch(&id, body).await, StatusCode::UNPROCESSABLE_ENTITY).await;
        assert_eq!(refused["errors"][0]["field"], field);
    }
    problem(patch(&json!(99), json!({ "priority": 1 })).await, StatusCode::NOT_FOUND).await;
    client.post(format!("/api/v1/tasks/{id}/cancel")).send().await.assert_status_is_ok();
    let ended = problem(patch(&id, json!({ "priority": 1 })).await, StatusCode::CONFLICT).await;
    assert!(ended["detail"].as_str().is_some_and(|detail| detail.contains("CANCELLED")), "{ended}");
}

#[tokio::test]
async fn a_task_says_why_it_does_not_run() {
    let client = client();
    let first = submit(&client, json!({ "prompt": "Hi" })).await;
    let second = submit(&client, json!({ "prompt": "Hi" })).await;
    let later = submit(&client, json!({ "prompt": "Hi", "delay_seconds": 60 })).await;
    post(&client, "/queues/ai_processing/pause").await;
    let why = async |task: &Value| get(&client, &format!("/tasks/{}/why", task["id"])).await;
    let reasons = |why: &Value| -> Vec<String> {
        let holds = why["held_by"].as_array().expect("a list").iter();
        holds.map(|hold| hold["reason"].as_str().expect("a reason").to_owned()).collect()
    };
    let of_first = why(&first).await;
    assert_eq!(reasons(&of_first), ["queue_paused", "nobody_serves_its_queue"]);
    assert_eq!((&of_first["position"], &of_first["expected_start"]), (&json!(1), &Value::Null));
    assert!(
        of_first["summary"].as_str().expect("a text").contains("queues resume ai_processing"),
        "{of_first}"
    );
    let of_second = why(&second).await;
    assert_eq!(reasons(&of_second), ["queue_paused", "nobody_serves_its_queue", "others_ahead"]);
    assert_eq!((&of_second["position"], &of_second["workers"]), (&json!(2), &json!([])));
    let of_later = why(&later).await;
    assert_eq!(reasons(&of_later)[0], "not_yet_due");
    assert_eq!((&of_later["held_by"][0]["until"], &of_later["position"]), (&later["run_at"], &Value::Null));
    client.post(format!("/api/v1/tasks/{}/cancel", first["id"])).send().await.assert_status_is_ok();
    let ended = why(&first).await;
    assert_eq!(
        (&ended["held_by"], &ended["summary"]),
        (&json!([]), &json!("nothing: it has ended as CANCELLED"))
    );
    problem(client.get("/api/v1/tasks/999/why").send().await, StatusCode::NOT_FOUND).await;
}

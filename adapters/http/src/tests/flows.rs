//! Chains and batches. No worker runs.

use super::*;

async fn post(client: &Client, path: &str, body: Value) -> TestResponse {
    client.post(format!("/api/v1{path}")).body_json(&body).send().await
}

async fn get(client: &Client, path: &str) -> Value {
    let answer = client.get(format!("/api/v1{path}")).send().await;
    answer.assert_status_is_ok();
    answer.json().await.value().deserialize()
}

async fn created(client: &Client, path: &str, body: Value) -> Value {
    let answer = post(client, path, body).await;
    answer.assert_status(StatusCode::CREATED);
    answer.json().await.value().deserialize()
}

/// The first mistake of a submission that is refused: its field and what is said.
async fn refused(client: &Client, path: &str, body: Value) -> (String, String) {
    let problem = problem(post(client, path, body).await, StatusCode::UNPROCESSABLE_ENTITY).await;
    let text = |field: &str| problem["errors"][0][field].as_str().unwrap_or_default().to_owned();
    (text("field"), text("message"))
}

#[tokio::test]
async fn a_chain_is_stored_with_its_follow_ups() {
    let client = client();
    let body = json!({
        "type": "demo.echo", "input": 1, "name": "one",
        "then": [
            { "type": "demo.echo", "input": { "$result": "one" }, "then": [{ "type": "demo.noop", "on_failure": "run" }] },
            { "type": "demo.noop" },
        ],
    });
    let head = created(&client, "/tasks", body).await;
    assert_eq!(
        (&head["status"], &head["then"], &head["after"]),
        (&json!("PENDING"), &json!([2, 4]), &json!([]))
    );
    let second = get(&client, "/tasks/2").await;
    assert_eq!((&second["status"], &second["after"]), (&json!("SCHEDULED"), &json!([1])));
    assert_eq!((&second["waits_for"], &second["run_at"]), (&json!(1), &Value::Null));
    assert_eq!(get(&client, "/tasks/3").await["after"], json!([2]));
    assert_eq!(get(&client, "/tasks/1").await, head);

    let after = created(&client, "/tasks", json!({ "prompt": "Hi", "after": [1, 2] })).await;
    assert_eq!(
        (&after["status"], &after["waits_for"], &after["after"]),
        (&json!("SCHEDULED"), &json!(2), &json!([1, 2]))
    );
}

#[tokio::test]
async fn a_chain_that_cannot_hold_is_refused() {
    let client = client();
    let (field, message) = refused(&client, "/tasks", json!({ "prompt": "Hi", "after": [7] })).await;
    assert_eq!((field.as_str(), message.as_str()), ("after", "there is no task 7"));
    created(&client, "/tasks", json!({ "type": "demo.noop" })).await;
    for (body, field, expected) in [
        (json!({ "prompt": "Hi", "after": [1], "delay_seconds": 5 }), "run_at", "no time of its own"),
        (
            json!({ "type": "demo.echo", "input": { "$result": "x" }, "after": [1] }),
            "input",
            "the task waits for task 1",
        ),
        (json!({ "type": "demo.noop", "then": [{ "type": "demo.nop" }] }), "then", "type: no task type"),
        (
            json!({ "type": "demo.noop", "then": [{ "type": "demo.noop", "unique_key": "a" }] }),
            "then",
            "unique_key",
        ),
        (
            json!({ "type": "demo.noop", "then": (0..101).map(|_| json!({ "type": "demo.noop" })).collect::<Vec<_>>() }),
            "then",
            "more than 100 follow-ups",
        ),
    ] {
        let (found, message) = refused(&client, "/tasks", body.clone()).await;
        assert!(found == field && message.contains(expected), "{body}: {found}: {message}");
    }
    assert_eq!(
        get(&client, "/tasks").await["items"].as_array().map(Vec::len),
        Some(1),
        "nothing of them was stored"
    );
}

#[tokio::test]
async fn a_batch_is_stored_read_listed_and_cancelled() {
    let client = client();
    let body = json!({
        "name": "three", "defaults": { "type": "demo.echo", "priority": 2 }, "metadata": { "a": 1 },
        "items": [{ "input": 1 }, { "input": 2, "priority": 7 }, { "type": "demo.noop", "after_items": ["x"] }, { "name": "x", "input": 3 }],
        "then": [{ "type": "demo.echo", "input": { "$result": "parent", "path": "/total" } }],
    });
    let batch = created(&client, "/batches", body).await;
    assert_eq!(batch["item_ids"], json!([2, 3, 4, 5]));
    for (field, expected) in [
        ("id", json!(1)),
        ("name", json!("three")),
        ("status", json!("SCHEDULED")),
        ("current", json!(0)),
        ("total", json!(4)),
        ("progress", json!(0)),
        ("then", json!([6])),
        ("metadata", json!({ "a": 1 })),
    ] {
        assert_eq!(batch[field], expected, "{field}");
    }
    assert_eq!((&batch["counts"]["pending"], &batch["counts"]["scheduled"]), (&json!(3), &json!(1)));
    let read = get(&client, "/batches/1").await;
    assert_eq!((&read["item_ids"], &read["total"]), (&Value::Null, &json!(4)));
    let priorities: Vec<_> = get(&client, "/batches/1/items?limit=2").await["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|item| (item["id"].clone(), item["priority"].clone(), item["batch"].clone()))
        .collect();
    assert_eq!(priorities, [(json!(5), json!(2), json!(1)), (json!(4), json!(2), json!(1))]);
    let next = get(&client, "/batches/1/items?limit=2&cursor=4").await;
    assert_eq!((&next["items"][0]["id"], &next["items"][0]["priority"]), (&json!(3), &json!(7)));
    assert_eq!(get(&client, "/batches/1/items?status=scheduled").await["items"][0]["id"], 4);
    assert_eq!(get(&client, "/batches").await["items"][0]["id"], 1);
    assert_eq!(get(&client, "/tasks/1").await["type"], "batch");
    assert_eq!(get(&client, "/tasks/1/progress").await["total"], 4);

    let answer = post(&client, "/batches/1/cancel", Value::Null).await;
    answer.assert_status_is_ok();
    let cancelled = get(&client, "/batches/1").await;
    assert_eq!((&cancelled["status"], &cancelled["counts"]["cancelled"]), (&json!("CANCELLED"), &json!(4)));
    problem(post(&client, "/batches/1/cancel", Value::Null).await, StatusCode::CONFLICT).await;
    let retried = post(&client, "/batches/1/retry", Value::Null).await;
    retried.assert_status_is_ok();
    let retried: Value = retried.json().await.value().deserialize();
    assert_eq!((&retried["retried"], &retried["batch"]["status"]), (&json!(4), &json!("SCHEDULED")));
    for path in ["/batches/2", "/batches/99", "/batches/0/items", "/batches/7/events"] {
        problem(client.get(format!("/api/v1{path}")).send().await, StatusCode::NOT_FOUND).await;
    }
}

#[tokio::test]
async fn a_batch_that_cannot_be_is_refused() {
    let client = client();
    let item = json!({ "type": "demo.noop" });
    for (body, field, expected) in [
        (json!({}), "items", "missing"),
        (json!({ "items": [] }), "items", "there are 0 items"),
        (json!({ "items": vec![item.clone(); 10_001] }), "items", "there are 10001 items"),
        (json!({ "items": [item, { "type": "demo.nop" }] }), "items", "item 1: type: no task type"),
        (json!({ "items": [item, { "priority": 11, "type": "demo.noop" }] }), "items[1].priority", "11"),
        (json!({ "items": [7] }), "items[0]", "not a JSON object"),
        (json!({ "items": [{ "type": "demo.noop", "unique_key": "a" }] }), "items", "unique_key"),
        (
            json!({ "items": [{ "type": "demo.noop", "after_items": ["a"] }] }),
            "items",
            "no task is called that",
        ),
        (
            json!({ "defaults": { "type": "demo.noop" }, "items": [
                { "name": "a", "after_items": ["b"] }, { "name": "b", "after_items": ["c"] }, { "name": "c", "after_items": ["a"] },
            ] }),
            "items",
            "in a circle: a → b → c → a",
        ),
    ] {
        let (found, message) = refused(&client, "/batches", body).await;
        assert!(found == field && message.contains(expected), "{found}: {message}");
    }
}

#[tokio::test]
async fn a_batch_is_stored_once_under_its_key() {
    let client = client();
    let send = || {
        let request = client.post("/api/v1/batches").content_type("application/json");
        request.header("Idempotency-Key", "abc").body(r#"{"items":[{"type":"demo.noop"}]}"#).send()
    };
    let first = send().await;
    first.assert_status(StatusCode::CREATED);
    let again = send().await;
    again.assert_status(StatusCode::CREATED);
    again.assert_header("idempotency-replayed", "true");
    again.assert_header("location", "/api/v1/batches/1");
    assert_eq!(get(&client, "/tasks").await["items"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn articles_are_a_batch_whose_number_the_task_routes_take() {
    let client = client();
    let body = json!({ "titles": ["One", "Two"], "category": "queues" });
    let answer = created(&client, "/tasks/generate-articles", body).await;
    assert_eq!(answer, json!({ "task_id": 1, "item_ids": [2, 3], "status": "SCHEDULED", "total": 2 }));
    let article = get(&client, "/tasks/3").await;
    assert_eq!((&article["type"], &article["queue"]), (&json!("ai.article"), &json!("ai_processing")));
    assert_eq!(article["input"], json!({ "title": "Two", "category": "queues" }));
    assert_eq!(get(&client, "/tasks/1/status").await["status"], "SCHEDULED");
    assert_eq!(get(&client, "/tasks/1/progress").await["total"], 2);
    post(&client, "/tasks/1/cancel", Value::Null).await.assert_status_is_ok();
    assert_eq!(get(&client, "/tasks/2").await["status"], "CANCELLED");
    for (body, expected) in [
        (json!({ "category": "x" }), "missing"),
        (json!({ "titles": [] }), "there are 0 titles"),
        (json!({ "titles": [" "] }), "the title is not 1 to 500"),
        (json!({ "titles": "One" }), "not a list of texts"),
    ] {
        let (_, message) = refused(&client, "/tasks/generate-articles", body).await;
        assert!(message.contains(expected), "{message}");
    }
}

async fn post_lines(client: &Client, lines: &str) -> TestResponse {
    let request = client.post("/api/v1/batches/lines").content_type("application/x-ndjson");
    request.body(lines.to_owned()).send().await
}

#[tokio::test]
async fn a_batch_may_come_line_by_line() {
    let client = client();
    let head = json!({ "batch": {
        "name": "lines", "defaults": { "type": "demo.echo", "priority": 2 }, "then": [{ "type": "demo.noop" }],
    } });
    let lines: String = (0..1_200).map(|number| format!("{{\"input\": {number}}}\r\n\n")).collect();
    let answer = post_lines(&client, &format!("{head}\n{lines}{{\"type\": \"demo.noop\"}}")).await;
    answer.assert_status(StatusCode::CREATED);
    let batch: Value = answer.json().await.value().deserialize();
    assert_eq!(
        (&batch["name"], &batch["total"], &batch["then"]),
        (&json!("lines"), &json!(1_201), &json!([2]))
    );
    assert_eq!(batch["counts"]["pending"], 1_201);
    let ids = batch["item_ids"].as_array().expect("numbers");
    assert_eq!((ids.len(), &ids[0], &ids[1_200]), (1_201, &json!(3), &json!(1_203)));
    let (first, last) = (get(&client, "/tasks/3").await, get(&client, "/tasks/1202").await);
    assert_eq!((&first["input"], &first["priority"], &first["batch"]), (&json!(0), &json!(2), &json!(1)));
    assert_eq!((&last["input"], &last["type"]), (&json!(1_199), &json!("demo.echo")));
}

#[tokio::test]
async fn each_bad_line_of_a_batch_is_named_and_nothing_is_stored() {
    let client = client();
    for (lines, field, expected) in [
        ("", "body", "there are no items"),
        ("{\"type\": \"demo.noop\"}\nnonsense", "line 2", "not valid JSON"),
        ("\n[1]", "line 2", "not a JSON object"),
        ("{\"type\": \"demo.nop\"}", "line 1.type", "no task type"),
        ("{\"type\": \"demo.noop\", \"after_items\": [\"x\"]}", "line 1.after_items", "no such field"),
        ("{\"type\": \"demo.noop\", \"unique_key\": \"x\"}", "line 1.unique_key", "cannot be unique"),
        ("{\"batch\": {\"items\": []}}\n{\"type\": \"demo.noop\"}", "batch.items", "no such field"),
        ("{\"type\": \"demo.noop\"}\n{\"batch\": {}}", "line 2.batch", "only the first line"),
    ] {
        let problem = problem(post_lines(&client, lines).await, StatusCode::UNPROCESSABLE_ENTITY).await;
        let text = |name: &str| problem["errors"][0][name].as_str().unwrap_or_default().to_owned();
        let (found, message) = (text("field"), text("message"));
        assert!(found == field && message.contains(expected), "{lines}: {found}: {message}");
    }
    let too_many = "{\"type\":\"demo.noop\"}\n".repeat(10_001);
    let problem_of_many =
        problem(post_lines(&client, &too_many).await, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(problem_of_many["errors"][0]["field"], "line 10001");
    let long = format!("{{\"type\":\"demo.echo\",\"input\":\"{}\"}}", "x".repeat(2 << 20));
    problem(post_lines(&client, &long).await, StatusCode::PAYLOAD_TOO_LARGE).await;
    let plain = client.post("/api/v1/batches/lines").content_type("text/plain").body("{}").send().await;
    problem(plain, StatusCode::UNSUPPORTED_MEDIA_TYPE).await;
    assert_eq!(get(&client, "/tasks").await["items"], json!([]));
}

#[tokio::test]
async fn a_batch_of_lines_is_stored_once_under_its_key() {
    let client = client();
    let send = async |lines: &'static str| {
        let request = client.post("/api/v1/batches/lines").content_type("application/x-ndjson");
        request.header("Idempotency-Key", "lines-1").body(lines).send().await
    };
    let line = "{\"type\": \"demo.noop\"}\n";
    send(line).await.assert_status(StatusCode::CREATED);
    let again = send(line).await;
    again.assert_status(StatusCode::CREATED);
    again.assert_header("Idempotency-Replayed", "true");
    problem(send("{\"type\": \"demo.echo\"}\n").await, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(get(&client, "/tasks").await["items"].as_array().map(Vec::len), Some(2));
}

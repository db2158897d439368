//! Running again and discarding. Nothing runs here, so what is handled was cancelled, or is brought to its end by hand.

use application::ports::{Claim, Patience, Settlement, WorkStore, WorkerProfile};
use domain::{Change, End, Failure, QueueName, WorkerName};

use super::*;

/// A product whose first task divided by zero, whose second met a busy server, and whose third waits.
async fn handled() -> Client {
    let now = DateTime::from_timestamp(1_800_000_000, 0).expect("a moment");
    let store = Arc::new(MemoryStore::new(now));
    let client = client_over(store.clone(), store.clone(), ApiConfig::default(), None);
    for operation in ["divide", "add"] {
        let input = json!({ "operation": operation, "x": 1, "y": 0 });
        submit(&client, json!({ "type": "demo.simple_calculation", "input": input })).await;
    }
    let profile = WorkerProfile {
        name: WorkerName::new("w@host").expect("a name"),
        queues: Vec::new(),
        except: Vec::new(),
        concurrency: 2,
        lease: std::time::Duration::from_secs(12),
        about: None,
    };
    let worker = store.register(&profile).await.expect("registered");
    let queue = QueueName::new("demo_tasks").expect("a queue");
    let claimed = store
        .claim(worker, &Claim::Next { queues: vec![(queue, 2)], limit: 2, patience: Patience::Any })
        .await;
    let settle = |(task, code): (application::ports::ClaimedTask, &str)| {
        let error = Some(Failure::permanent(code, "as the test says"));
        let change = Change::Finish { end: End::Failed, counters: task.counters, error };
        let attempt = task.counters.attempt;
        Settlement {
            task: task.id,
            attempt,
            change,
            result: None,
            details: None,
            calls: Vec::new(),
            knew_of_cancel: false,
        }
    };
    let failed = claimed.expect("claimed").into_iter().zip(["division_by_zero", "busy"]).map(settle);
    store.settle(worker, &failed.collect::<Vec<_>>()).await.expect("settled");
    submit(&client, json!({ "type": "demo.noop" })).await;
    client
}

async fn post(client: &Client, path: &str, body: Value) -> TestResponse {
    client.post(format!("/api/v1{path}")).body_json(&body).send().await
}

async fn value(response: TestResponse) -> Value {
    response.assert_status_is_ok();
    response.json().await.value().deserialize()
}

#[tokio::test]
async fn failures_are_grouped_by_their_reason() {
    let client = handled().await;
    let failures = value(client.get("/api/v1/manual-tasks").send().await).await;
    assert_eq!(failures["total"], 2);
    let reasons: Vec<_> =
        failures["groups"].as_array().expect("groups").iter().map(|g| &g["reason"]).collect();
    assert_eq!(reasons, ["busy", "division_by_zero"]);
    assert_eq!(failures["groups"][0]["latest_task_id"], 2);
    let listed = value(client.get("/api/v1/tasks?status=FAILED&error_code=busy").send().await).await;
    assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));
    let inspected = value(client.get("/api/v1/manual-tasks/1").send().await).await;
    assert_eq!(inspected["task"]["error"]["code"], "division_by_zero");
    assert_eq!(inspected["attempts"][0]["outcome"], "FAILED");
    problem(client.get("/api/v1/manual-tasks/3").send().await, StatusCode::NOT_FOUND).await;
}

#[tokio::test]
async fn a_failed_task_runs_again_with_another_input() {
    let client = handled().await;
    let edited = json!({ "input": { "operation": "divide", "x": 1, "y": 2 } });
    for nonsense in [json!({ "input": { "operation": "divide" } }), json!({ "inpt": 1 })] {
        problem(post(&client, "/manual-tasks/1/retry", nonsense).await, StatusCode::UNPROCESSABLE_ENTITY)
            .await;
    }
    let again = value(post(&client, "/manual-tasks/1/retry", edited.clone()).await).await;
    assert_eq!(
        (&again["status"], &again["attempt"], &again["input"]),
        (&json!("PENDING"), &json!(1), &edited["input"])
    );
    assert_eq!(again["error"]["code"], "division_by_zero", "until it runs");
    problem(post(&client, "/tasks/1/retry", json!({})).await, StatusCode::CONFLICT).await;
    problem(post(&client, "/tasks/99/retry", json!({})).await, StatusCode::NOT_FOUND).await;
    // Without a body it runs as it was.
    let again = value(client.post("/api/v1/tasks/2/retry").send().await).await;
    assert_eq!(again["status"], "PENDING");
}

#[tokio::test]
async fn many_are_handled_at_once() {
    let client = handled().await;
    let swept = value(post(&client, "/manual-tasks/retry", json!({ "ids": [1, 3, 99] })).await).await;
    assert_eq!(swept["changed"], 1);
    let refused: Vec<_> =
        swept["refused"].as_array().expect("a list").iter().map(|r| r["id"].clone()).collect();
    assert_eq!(refused, [3, 99]);
    let swept =
        value(post(&client, "/tasks/retry", json!({ "filter": { "error_code": "none" } })).await).await;
    assert_eq!(swept, json!({ "changed": 0, "more": false, "refused": [] }));
    let swept = value(post(&client, "/manual-tasks/discard", json!({ "filter": {} })).await).await;
    assert_eq!(swept["changed"], 1);
    problem(client.get("/api/v1/tasks/2").send().await, StatusCode::NOT_FOUND).await;
    let both = post(&client, "/tasks/retry", json!({ "ids": [1], "filter": {} })).await;
    problem(both, StatusCode::UNPROCESSABLE_ENTITY).await;
}

#[tokio::test]
async fn only_what_failed_is_discarded() {
    let client = handled().await;
    client.post("/api/v1/manual-tasks/1/discard").send().await.assert_status(StatusCode::NO_CONTENT);
    problem(client.post("/api/v1/manual-tasks/1/discard").send().await, StatusCode::NOT_FOUND).await;
    problem(client.post("/api/v1/manual-tasks/3/discard").send().await, StatusCode::CONFLICT).await;
}

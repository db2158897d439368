//! Workers. None runs here: what one would say is told to the store.

use application::{
    memory::MemoryStore,
    ports::{CommandAnswer, FleetStore, WorkStore, WorkerProfile, WorkerReport},
};
use domain::{Json, QueueName, WorkerId, WorkerName};

use super::*;

fn started() -> (Arc<MemoryStore>, Client) {
    let now = DateTime::from_timestamp(1_800_000_000, 0).expect("a moment");
    let store = Arc::new(MemoryStore::new(now));
    (store.clone(), client_over(store.clone(), store, ApiConfig::default(), None))
}

async fn register(store: &MemoryStore, name: &str) -> WorkerId {
    let profile = WorkerProfile {
        name: WorkerName::new(name).expect("a name"),
        queues: vec![QueueName::new("urgent").expect("a queue")],
        except: Vec::new(),
        concurrency: 4,
        lease: std::time::Duration::from_secs(12),
        about: Json::parse(r#"{"version":"1.2.3","host":"h","pid":7,"types":["demo.noop"],"settings":[["lease_seconds","12"]]}"#).ok(),
    };
    store.register(&profile).await.expect("registered")
}

async fn json_of(response: TestResponse) -> Value {
    response.json().await.value().deserialize()
}

#[tokio::test]
async fn the_api_says_plainly_that_no_worker_is_alive() {
    let (store, client) = started();
    let list = json_of(client.get("/api/v1/workers").send().await).await;
    assert_eq!((&list["items"], &list["living"]), (&json!([]), &json!(0)));
    assert!(list["warning"].as_str().is_some_and(|text| text.contains("no worker is alive")), "{list}");
    let nobody = problem(client.post("/api/v1/workers/all/ping").send().await, StatusCode::CONFLICT).await;
    assert!(nobody["detail"].as_str().is_some_and(|text| text.contains("task-runner-worker")), "{nobody}");
    register(&store, "w@host").await;
    let list = json_of(client.get("/api/v1/workers").send().await).await;
    assert_eq!((&list["living"], &list["warning"]), (&json!(1), &Value::Null));
    store.advance(std::time::Duration::from_secs(7));
    let list = json_of(client.get("/api/v1/workers").send().await).await;
    assert_eq!((&list["items"][0]["state"], &list["living"]), (&json!("silent"), &json!(0)));
}

#[tokio::test]
async fn a_worker_is_read_by_number_and_by_name() {
    let (store, client) = started();
    let worker = register(&store, "urgent-worker@h").await;
    let standing = json!({
        "mode": "paused", "active_count": 1, "ended": { "completed": 3, "failed": 1 }, "memory": 1000,
        "active": [{ "task": 9, "attempt": 2, "task_type": "demo.noop", "queue": "urgent",
            "started_at": "2027-01-15T08:00:00Z" }],
        "rate_limits": [["demo.noop", "10/s"]],
    });
    let report = WorkerReport {
        queues: Vec::new(),
        except: Vec::new(),
        concurrency: 9,
        standing: Json::parse(standing.to_string()).expect("JSON"),
    };
    store.report(worker, Some(report), &[]).await.expect("reported");
    for path in ["1", "urgent-worker@h"] {
        let shown = json_of(client.get(format!("/api/v1/workers/{path}")).send().await).await;
        for (field, expected) in [
            ("id", json!(1)),
            ("name", json!("urgent-worker@h")),
            ("state", json!("paused")),
            ("version", json!("1.2.3")),
            ("pid", json!(7)),
            ("queues", json!([])),
            ("concurrency", json!(9)),
            ("types", json!(["demo.noop"])),
            ("active_count", json!(1)),
            ("completed", json!(3)),
            ("memory_bytes", json!(1000)),
            ("rate_limits", json!([{ "type": "demo.noop", "rate": "10/s" }])),
            ("settings", json!([{ "name": "lease_seconds", "value": "12" }])),
            ("reported_at", json!("2027-01-15T08:00:00.000000Z")),
        ] {
            assert_eq!(shown[field], expected, "{field}");
        }
        assert_eq!((&shown["active"][0]["task_id"], &shown["active"][0]["attempt"]), (&json!(9), &json!(2)));
    }
    for path in ["2", "nobody@h", "no%20name"] {
        problem(client.get(format!("/api/v1/workers/{path}")).send().await, StatusCode::NOT_FOUND).await;
    }
}

#[tokio::test]
async fn a_command_tells_which_workers_did_it() {
    let (store, client) = started();
    let (one, _deaf) = (register(&store, "one@h").await, register(&store, "deaf@h").await);
    let answering = {
        let store = store.clone();
        tokio::spawn(async move {
            loop {
                if let Some(command) = store.report(one, None, &[]).await.expect("readable").pop() {
                    let answer = CommandAnswer { id: command.id, done: true, message: "as told".to_owned() };
                    store.report(one, None, &[answer]).await.expect("kept");
                    return command.command;
                }
                tokio::task::yield_now().await;
            }
        })
    };
    let body = json!({ "type": "demo.noop", "rate": "600/m" });
    let told = client.post("/api/v1/workers/one@h/rate-limit").body_json(&body).send().await;
    told.assert_status_is_ok();
    let told = json_of(told).await;
    assert_eq!(answering.await.expect("answered"), "rate-limit demo.noop 600/m");
    let expected = json!([{ "worker_id": one.0, "name": "one@h", "outcome": "done", "message": "as told" }]);
    assert_eq!((&told["command"], &told["workers"]), (&json!("rate-limit demo.noop 600/m"), &expected));

    let pending = client.post("/api/v1/workers/deaf@h/pause?wait=10ms").send().await;
    pending.assert_status(StatusCode::ACCEPTED);
    assert_eq!(json_of(pending).await["workers"][0]["outcome"], "pending");
}

#[tokio::test]
async fn commands_to_nobody_and_commands_that_make_no_sense_are_refused() {
    let (store, client) = started();
    let gone = register(&store, "gone@h").await;
    store.retire(gone).await.expect("retired");
    problem(client.post("/api/v1/workers/nobody@h/pause").send().await, StatusCode::NOT_FOUND).await;
    problem(client.post("/api/v1/workers/gone@h/pause").send().await, StatusCode::CONFLICT).await;
    for (command, body, field) in [
        ("concurrency", json!({}), "concurrency"),
        ("concurrency", json!({ "concurrency": 0 }), "concurrency"),
        ("concurrency", json!({ "concurrency": 1, "more": 1 }), "more"),
        ("add-queue", json!({ "queue": "a b" }), "queue"),
        ("remove-queue", json!({}), "queue"),
        ("rate-limit", json!({ "rate": "1/s" }), "type"),
        ("rate-limit", json!({ "type": "demo.noop", "rate": "fast" }), "rate"),
        ("pause?wait=2m", json!({}), "wait"),
    ] {
        let answer = client.post(format!("/api/v1/workers/all/{command}")).body_json(&body).send().await;
        let refused = problem(answer, StatusCode::UNPROCESSABLE_ENTITY).await;
        assert_eq!(refused["errors"][0]["field"], field, "{command} {body}");
    }
}

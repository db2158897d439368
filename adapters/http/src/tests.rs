//! The API over the memory store. No worker runs: what a task comes to is tested end to end.

use std::sync::Arc;

use application::{
    fleet::Workers,
    in_process::InProcessSignals,
    memory::MemoryStore,
    ports::{MockEmbedder, MockTaskStore, MockTextGenerator, Store, StoreError, TaskStore},
    providers::Budgets,
    queues::Queues,
    registry::Registry,
    schedules::Schedules,
    task_types::{self, Models},
    tasks::Tasks,
};
use chrono::DateTime;
use domain::Routes;
use poem::{
    Response,
    endpoint::BoxEndpoint,
    http::StatusCode,
    test::{TestClient, TestResponse},
};
use serde_json::{Value, json};

use crate::{
    ApiConfig,
    api::{Context, UseCases},
    routes,
};

mod ai;
mod flows;
mod handling;
mod once;
mod queues;
mod schedules;
mod workers;

type Client = TestClient<BoxEndpoint<'static, Response>>;

/// Over a store that only answers what is asked of tasks.
fn client_of(store: Arc<dyn TaskStore>, config: ApiConfig) -> Client {
    // Schedules are not asked for here.
    let now = DateTime::from_timestamp(1_800_000_000, 0).expect("a moment");
    client_over(store, Arc::new(MemoryStore::new(now)), config, None)
}

fn client_over(
    store: Arc<dyn TaskStore>,
    schedules: Arc<dyn Store>,
    config: ApiConfig,
    waiting_limit: Option<u64>,
) -> Client {
    let models = Models {
        generator: Arc::new(MockTextGenerator::new()),
        embedder: Arc::new(MockEmbedder::new()),
        store: Arc::clone(&store),
        largest_result: application::worker::LARGEST_RESULT,
    };
    let registry = Registry::new(task_types::built_in(&models)).expect("distinct types");
    let tasks = Tasks::new(
        store,
        None,
        Arc::new(InProcessSignals::new()),
        Arc::new(registry),
        Arc::new(Routes::default()),
    )
    .with_waiting_limit(waiting_limit);
    let signals = Arc::new(InProcessSignals::new());
    let use_cases = UseCases {
        queues: Queues::new(
            Arc::clone(&schedules),
            Arc::clone(&signals) as _,
            Arc::new(Routes::default()),
            tasks.clone(),
        ),
        workers: Workers::new(Arc::clone(&schedules), signals),
        budgets: Budgets::new(Vec::new(), Arc::clone(&schedules)),
        schedules: Schedules::new(schedules, tasks.clone()),
        tasks,
    };
    let context = Context::new(Some(use_cases), config.clone(), Default::default());
    TestClient::new(routes(&config, context))
}

fn client() -> Client {
    let now = DateTime::from_timestamp(1_800_000_000, 0).expect("a moment");
    let store = Arc::new(MemoryStore::new(now));
    client_over(store.clone(), store, ApiConfig::default(), None)
}

/// Checks that a failure is problem details of this status, and answers them.
async fn problem(response: TestResponse, status: StatusCode) -> Value {
    response.assert_status(status);
    response.assert_content_type("application/problem+json");
    let problem: Value = response.json().await.value().deserialize();
    assert_eq!(problem["status"], status.as_u16());
    assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
    problem
}

async fn submit(client: &Client, body: Value) -> Value {
    let response = client.post("/api/v1/tasks").body_json(&body).send().await;
    response.assert_status(StatusCode::CREATED);
    response.json().await.value().deserialize()
}

#[tokio::test]
async fn a_submission_answers_the_task_and_where_it_is() {
    let client = client();
    let response = client
        .post("/api/v1/tasks")
        .body_json(&json!({ "prompt": "Explain quantum computing", "model": "gpt-3.5-turbo", "priority": 5 }))
        .send()
        .await;
    response.assert_status(StatusCode::CREATED);
    response.assert_header("location", "/api/v1/tasks/1");
    let task: Value = response.json().await.value().deserialize();
    for (field, expected) in [
        ("id", json!(1)),
        ("type", json!("ai.text_generation")),
        ("queue", json!("ai_processing")),
        ("prompt", json!("Explain quantum computing")),
        ("model", json!("gpt-3.5-turbo")),
        ("priority", json!(5)),
        ("status", json!("PENDING")),
        ("result", Value::Null),
        ("attempt", json!(0)),
        ("created_at", json!("2027-01-15T08:00:00.000000Z")),
        ("updated_at", Value::Null),
    ] {
        assert_eq!(task[field], expected, "{field}");
    }
    let read: Value = client.get("/api/v1/tasks/1").send().await.json().await.value().deserialize();
    assert_eq!(read, task);
}

#[tokio::test]
async fn json_is_read_under_other_media_types_unless_it_comes_from_another_site() {
    let client = client();
    let send = |headers: &'static [(&'static str, &'static str)]| {
        let request = client.post("/api/v1/tasks").body(r#"{"prompt":"Hi"}"#.to_owned());
        headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send()
    };
    for headers in [
        &[][..],
        &[("content-type", "application/x-www-form-urlencoded")],
        &[("content-type", "text/plain;charset=UTF-8")],
        &[("content-type", "text/plain"), ("host", "localhost:8000"), ("origin", "http://localhost:8000")],
        &[("content-type", "application/json"), ("origin", "https://evil.example")],
    ] {
        send(headers).await.assert_status(StatusCode::CREATED);
    }
    for headers in [
        &[("content-type", "text/plain"), ("host", "localhost:8000"), ("origin", "https://evil.example")][..],
        &[("content-type", "text/plain"), ("sec-fetch-site", "cross-site")],
        &[("content-type", "application/xml")],
    ] {
        let problem = problem(send(headers).await, StatusCode::UNSUPPORTED_MEDIA_TYPE).await;
        assert_eq!(problem["errors"][0]["field"], "Content-Type");
    }
}

#[tokio::test]
async fn every_failure_is_problem_details() {
    let client = client();
    let post = |body: &str| {
        client.post("/api/v1/tasks").content_type("application/json").body(body.to_owned()).send()
    };
    problem(post("{").await, StatusCode::BAD_REQUEST).await;
    problem(post("").await, StatusCode::BAD_REQUEST).await;
    let unknown =
        problem(post(r#"{"prompt":"x","modle":"y"}"#).await, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(unknown["errors"][0]["field"], "modle");
    let wrong =
        problem(post(r#"{"prompt":"x","priority":"high"}"#).await, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert_eq!(wrong["errors"][0]["field"], "priority");
    let no_type =
        problem(post(r#"{"type":"no.such","input":{}}"#).await, StatusCode::UNPROCESSABLE_ENTITY).await;
    assert!(no_type["detail"].as_str().is_some_and(|detail| detail.contains("demo.noop")), "{no_type}");
    for path in ["/api/v1/tasks/1", "/api/v1/tasks/1/status", "/api/v1/tasks/9223372036854775807", "/nowhere"]
    {
        problem(client.get(path).send().await, StatusCode::NOT_FOUND).await;
    }
    for path in ["/api/v1/tasks/one", "/api/v1/tasks/9223372036854775808", "/api/v1/tasks/1.5/progress"] {
        let refused = problem(client.get(path).send().await, StatusCode::UNPROCESSABLE_ENTITY).await;
        assert_eq!(refused["errors"][0]["field"], "id");
    }
    let response = client.put("/api/v1/tasks").send().await;
    response.assert_header("allow", "GET, POST");
    problem(response, StatusCode::METHOD_NOT_ALLOWED).await;
}

#[tokio::test]
async fn a_body_has_a_limit_however_it_is_sent() {
    let client = client();
    let large = format!(r#"{{"prompt":"{}"}}"#, "x".repeat(2_000_000));
    let whole =
        client.post("/api/v1/tasks").content_type("application/json").body(large.clone()).send().await;
    problem(whole, StatusCode::PAYLOAD_TOO_LARGE).await;
    let pieces = futures_util::stream::iter(
        large
            .into_bytes()
            .chunks(10_000)
            .map(|piece| Ok::<_, std::io::Error>(piece.to_vec()))
            .collect::<Vec<_>>(),
    );
    let chunked = poem::Body::from_bytes_stream(pieces);
    let chunked = client.post("/api/v1/tasks").content_type("application/json").body(chunked).send().await;
    problem(chunked, StatusCode::PAYLOAD_TOO_LARGE).await;
}

#[tokio::test]
async fn lists_are_paged_newest_first_and_filtered() {
    let client = client();
    for n in 0..5 {
        submit(
            &client,
            json!({ "type": "demo.echo", "input": n, "queue": if n == 0 { "rare" } else { "common" } }),
        )
        .await;
    }
    let ids = |page: &Value| -> Vec<i64> {
        page["items"].as_array().into_iter().flatten().filter_map(|task| task["id"].as_i64()).collect()
    };
    let client_ref = &client;
    let get = |query: &'static str| async move {
        let response = client_ref.get(format!("/api/v1/tasks{query}")).send().await;
        response.assert_status_is_ok();
        response.json().await.value().deserialize::<Value>()
    };
    let first = get("?limit=2").await;
    assert_eq!(ids(&first), [5, 4]);
    let cursor = first["next_cursor"].as_str().expect("there is more");
    let second: Value = client
        .get(format!("/api/v1/tasks?limit=2&cursor={cursor}"))
        .send()
        .await
        .json()
        .await
        .value()
        .deserialize();
    assert_eq!(ids(&second), [3, 2]);
    assert_eq!(ids(&get("?queue=rare").await), [1]);
    assert_eq!(ids(&get("?status=pending").await).len(), 5);
    assert_eq!(ids(&get("?status=Running,success").await), [0_i64; 0]);
    assert_eq!(ids(&get("?type=demo.noop").await), [0_i64; 0]);
    for query in
        ["?limit=0", "?limit=501", "?limit=x", "?status=done", "?cursor=x", "?queue=%20", "?type=a%00b"]
    {
        problem(client.get(format!("/api/v1/tasks{query}")).send().await, StatusCode::UNPROCESSABLE_ENTITY)
            .await;
    }
}

#[tokio::test]
async fn waiting_tasks_are_cancelled_and_deleted_at_once() {
    let client = client();
    submit(&client, json!({ "prompt": "Hi" })).await;
    let cancelled = client.post("/api/v1/tasks/1/cancel").send().await;
    cancelled.assert_status_is_ok();
    assert_eq!(cancelled.json().await.value().deserialize::<Value>()["status"], "CANCELLED");
    problem(client.post("/api/v1/tasks/1/cancel").send().await, StatusCode::CONFLICT).await;
    client.delete("/api/v1/tasks/1").send().await.assert_status(StatusCode::NO_CONTENT);
    problem(client.delete("/api/v1/tasks/1").send().await, StatusCode::NOT_FOUND).await;
}

#[tokio::test]
async fn a_wait_of_bad_length_is_refused_and_a_short_one_answers_the_task_as_it_stands() {
    let client = client();
    submit(&client, json!({ "prompt": "Hi" })).await;
    let stands: Value =
        client.get("/api/v1/tasks/1?wait=20ms").send().await.json().await.value().deserialize();
    assert_eq!(stands["status"], "PENDING");
    for wait in ["", "soon", "-1s", "61s", "2m", "1e3s", "999999999999999999999999s"] {
        let response = client.get(format!("/api/v1/tasks/1?wait={wait}")).send().await;
        let refused = problem(response, StatusCode::UNPROCESSABLE_ENTITY).await;
        assert_eq!(refused["errors"][0]["field"], "wait", "{wait:?}");
    }
}

#[tokio::test]
async fn counts_are_told_in_all_and_by_queue() {
    let client = client();
    submit(&client, json!({ "prompt": "Hi" })).await;
    submit(&client, json!({ "type": "demo.noop", "delay_seconds": 60 })).await;
    let stats: Value = client.get("/api/v1/stats").send().await.json().await.value().deserialize();
    assert_eq!((&stats["tasks"]["pending"], &stats["tasks"]["scheduled"]), (&json!(1), &json!(1)));
    assert_eq!(stats["queues"][1]["queue"], "demo_tasks");
}

#[tokio::test]
async fn an_outage_of_the_store_is_a_503_that_says_when_to_come_back() {
    let mut store = MockTaskStore::new();
    let away = || StoreError::Unavailable("connection refused by 10.0.0.7".into());
    store.expect_submit().returning(move |_| Err(away()));
    store.expect_read().returning(move |_, _| Err(away()));
    store.expect_ping().returning(move || Err(away()));
    let client = client_of(Arc::new(store), ApiConfig::default());
    for response in [
        client.get("/api/v1/tasks/1").send().await,
        client.post("/api/v1/tasks").body_json(&json!({ "prompt": "Hi" })).send().await,
    ] {
        response.assert_header("retry-after", "2");
        let problem = problem(response, StatusCode::SERVICE_UNAVAILABLE).await;
        assert!(!problem.to_string().contains("10.0.0.7"), "inner addresses are for the log: {problem}");
    }
    client.get("/api/v1/health").send().await.assert_status(StatusCode::SERVICE_UNAVAILABLE);
    client.get("/api/v1/health/live").send().await.assert_status_is_ok();
}

#[tokio::test]
async fn names_of_other_sites_are_not_answered_to() {
    let client = client();
    for host in ["localhost:8000", "127.0.0.1:8000", "[::1]:8000", "api.localhost"] {
        client.get("/api/v1/health").header("host", host).send().await.assert_status_is_ok();
    }
    let rebound = client.get("/api/v1/tasks/1").header("host", "evil.example:8000").send().await;
    problem(rebound, StatusCode::FORBIDDEN).await;
}

#[tokio::test]
async fn the_page_shows_the_finished_document_and_needs_nothing_from_outside() {
    let client = client();
    let document: Value = client.get("/openapi.json").send().await.json().await.value().deserialize();
    assert_eq!(document["paths"]["/api/v1/tasks"]["post"]["operationId"], "submit_task");
    let page = client.get("/docs").send().await;
    page.assert_status_is_ok();
    let page = page.0.into_body().into_string().await.expect("text");
    assert!(page.contains("\"additionalProperties\": false"), "the finished document");
    assert!(!page.contains("<script src=") && !page.contains("<link rel=\"stylesheet\" href=\"http"));
    client.get("/").send().await.assert_header("location", "/docs");
}

#[tokio::test]
async fn the_prefix_is_a_setting() {
    let config = ApiConfig { prefix: "/api".to_owned(), ..ApiConfig::default() };
    let client = client_of(Arc::new(MockTaskStore::new()), config);
    client.get("/api/health/live").send().await.assert_status_is_ok();
    problem(client.get("/api/v1/health/live").send().await, StatusCode::NOT_FOUND).await;
}

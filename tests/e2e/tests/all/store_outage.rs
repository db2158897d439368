//! PostgreSQL goes away and comes back.

use std::time::Duration;

use contract_tests::servers::PostgresServer;
use e2e_tests::{Api, Base, PATIENCE};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

/// Submits until that is accepted again; the task's number.
async fn submit_once_it_is_back(api: &Api) -> i64 {
    let body = json!({ "type": "demo.noop" });
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = api.send(Method::POST, "/tasks", Some(&body)).await;
        if answer.status == 201 {
            return e2e_tests::api::id(&answer.body);
        }
        assert_eq!(answer.status, 503, "{}", answer.body);
        assert!(Instant::now() < deadline, "submissions are not accepted again");
    }
}

#[tokio::test]
async fn an_outage_of_the_store_is_said_plainly_and_survived() {
    let postgres = PostgresServer::start().expect("a PostgreSQL of its own");
    let database = postgres.create_database().await;
    let mut product = Base::PostgresAndRedis.setup().set("DATABASE_URL", &database).start().await;
    let api = product.api();
    let ends_meanwhile = api.submit_type("demo.sleep", json!({ "seconds": 1 })).await;
    let ends_later = api.submit_type("demo.sleep", json!({ "seconds": 5 })).await;
    let scheduled = api.submit(json!({ "type": "demo.noop", "delay_seconds": 1 })).await;
    api.reaches(ends_meanwhile, "PROCESSING").await;
    api.reaches(ends_later, "PROCESSING").await;

    postgres.crash().expect("it dies");
    let health = api.send(Method::GET, "/health", None).await;
    assert_eq!(
        (health.status.as_u16(), &health.body["status"]),
        (503, &json!("unhealthy")),
        "{}",
        health.body
    );
    assert_eq!(api.get("/health/live").await["status"], "alive");
    let asked = Instant::now();
    let answer = api.send(Method::POST, "/tasks", Some(&json!({ "type": "demo.noop" }))).await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (503, "application/problem+json"));
    assert!(
        answer.header("retry-after").parse::<u32>().is_ok_and(|seconds| seconds > 0),
        "{:?}",
        answer.headers
    );
    assert!(asked.elapsed() < Duration::from_secs(10), "the refusal took {:?}", asked.elapsed());
    let read = api.send(Method::GET, &format!("/tasks/{ends_later}"), None).await;
    assert_eq!(read.status, 503, "{}", read.body);
    // One of them ends while nobody can write that down.
    product.worker().writes("outcomes cannot be stored yet").await;

    postgres.resume().expect("it starts again");
    let new = submit_once_it_is_back(&api).await;
    assert_eq!(api.completed(new).await["result"], Value::Null);
    for id in [ends_meanwhile, ends_later, e2e_tests::api::id(&scheduled)] {
        assert_eq!(api.completed(id).await["attempt"], 1, "the work of task {id} was not lost");
    }
    api.health_becomes("healthy").await;
}

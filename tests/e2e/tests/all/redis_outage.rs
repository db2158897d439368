//! Redis can be thrown away.

use std::time::Duration;

use contract_tests::servers::RedisServer;
use e2e_tests::{Api, Base};
use serde_json::{Value, json};
use tokio::time::Instant;

/// Submits a task and waits for its end: how long that took.
async fn time_of_one_task(api: &Api) -> Duration {
    let started = Instant::now();
    let id = api.submit_type("demo.noop", Value::Null).await;
    assert_eq!(api.completed(id).await["attempt"], 1);
    started.elapsed()
}

#[tokio::test]
async fn tasks_are_taken_and_run_while_redis_is_down_and_after() {
    let redis = RedisServer::start().expect("a Redis of its own");
    let product = Base::PostgresAndRedis.setup().set("REDIS_URL", redis.url()).start().await;
    let api = product.api();
    time_of_one_task(&api).await;

    redis.stop().expect("it stops");
    for _ in 0..3 {
        let took = time_of_one_task(&api).await;
        assert!(took < Duration::from_secs(5), "without Redis it took {took:?}");
    }
    let health = api.health_becomes("degraded").await;
    let redis_health = &health["dependencies"][1];
    assert_eq!((&redis_health["name"], &redis_health["status"]), (&json!("redis"), &json!("unhealthy")));
    assert!(redis_health["error"].is_string(), "{health}");

    redis.resume().expect("it starts again");
    api.health_becomes("healthy").await;
    // Connections come back one after the other; then tasks run at once, and do not wait for a look at the store.
    let deadline = Instant::now() + Duration::from_secs(15);
    let mut quick = 0;
    while quick < 5 {
        let took = time_of_one_task(&api).await;
        quick = if took < Duration::from_millis(700) { quick + 1 } else { 0 };
        assert!(Instant::now() < deadline, "with Redis back a task still took {took:?}");
    }
}

#[tokio::test]
async fn every_process_starts_and_serves_with_redis_dead() {
    let redis = RedisServer::start().expect("a Redis of its own");
    redis.stop().expect("it stops");
    let product = Base::PostgresAndRedis.setup().set("REDIS_URL", redis.url()).start().await;
    let api = product.api();
    api.health_becomes("degraded").await;
    assert_eq!(api.get("/health/live").await["status"], "alive");
    let took = time_of_one_task(&api).await;
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    // Live events still come, by way of the store.
    let id = api.submit_type("demo.sleep", json!({ "seconds": 1.5 })).await;
    let events = api.events(id, None).await.rest().await;
    assert!(events.iter().any(|event| event.name == "progress"), "{events:?}");
    assert_eq!(events.last().map(|event| &event.data["status"]), Some(&json!("COMPLETED")));
    redis.resume().expect("it starts");
    api.health_becomes("healthy").await;
    time_of_one_task(&api).await;
}

#[tokio::test]
async fn a_redis_that_forgets_everything_loses_no_task() {
    let redis = RedisServer::start().expect("a Redis of its own");
    let setup = Base::PostgresAndRedis.setup().set("REDIS_URL", redis.url()).set("WORKER_CONCURRENCY", "4");
    let product = setup.start().await;
    let api = product.api();
    let submissions = (0..60).map(|_| api.submit_type("demo.sleep", json!({ "seconds": 0.1 })));
    let ids = futures_util::future::join_all(submissions).await;
    redis.restart().expect("it restarts, empty");
    for id in ids {
        assert_eq!(api.completed(id).await["attempt"], 1);
    }
}

#[tokio::test]
async fn a_redis_that_answers_nothing_holds_nobody_up() {
    let redis = RedisServer::start().expect("a Redis of its own");
    let product = Base::PostgresAndRedis.setup().set("REDIS_URL", redis.url()).start().await;
    let api = product.api();
    time_of_one_task(&api).await;
    // Connections stay open: only time tells.
    redis.pause().expect("it freezes");
    for _ in 0..3 {
        let started = Instant::now();
        let id = api.submit_type("demo.noop", Value::Null).await;
        let answered = started.elapsed();
        assert!(answered < Duration::from_secs(1), "the answer took {answered:?}");
        api.completed(id).await;
        let took = started.elapsed();
        assert!(took < Duration::from_secs(6), "the task took {took:?}");
    }
    api.health_becomes("degraded").await;
    redis.unpause().expect("it goes on");
    api.health_becomes("healthy").await;
    time_of_one_task(&api).await;
}

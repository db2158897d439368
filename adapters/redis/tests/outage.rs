//! Redis dead, frozen or back again: calls fail fast, and recovery comes by itself.

mod support;

use std::time::Duration;

use application::ports::{Order, StoreError};
use contract_tests::servers::RedisServer;
use redis_adapter::{InvalidOptions, Redis, RedisOptions, RedisOrder};
use support::{NONE, fill, ids, open, options, pop, queue, tasks, until};
use tokio::time::Instant;

/// Each call answers `Unavailable`, and none takes longer than this once the first has failed.
const FAST: Duration = Duration::from_millis(100);

async fn every_call_fails_fast(order: &RedisOrder) {
    let q = queue("q");
    let first = order.ping().await;
    assert!(matches!(first, Err(StoreError::Unavailable(_))), "{first:?}");
    let start = Instant::now();
    let errors = [
        order.push(&tasks(&q, [1])).await.err(),
        order.pop(&[(q.clone(), 1)], 1).await.err(),
        order.mark(&q).await.err(),
        order.refill(&q, 0, &[], true).await.err(),
        order.queues().await.err(),
        order.ping().await.err(),
    ];
    assert!(start.elapsed() < FAST, "{:?} for all of them", start.elapsed());
    for error in errors {
        assert!(matches!(error, Some(StoreError::Unavailable(_))), "{error:?}");
    }
}

async fn comes_back(order: &RedisOrder) {
    until("Redis answers again", || async { order.ping().await.is_ok() }).await;
}

#[tokio::test]
async fn a_dead_server_is_an_error_not_a_wait_and_a_restart_is_noticed() {
    let server = RedisServer::start().expect("a server");
    let order = RedisOrder::new(&open(&options(&server)));
    let q = queue("q");
    fill(&order, &q, &tasks(&q, [1])).await;

    server.stop().expect("a stop");
    every_call_fails_fast(&order).await;
    server.resume().expect("a start");
    comes_back(&order).await;
    let popped = pop(&order, &q, 1).await;
    assert_eq!((ids(&popped), popped.low), (NONE.to_vec(), vec![q.clone()]), "all was lost, and it is known");

    fill(&order, &q, &tasks(&q, [1])).await;
    server.restart().expect("a restart");
    comes_back(&order).await;
    assert_eq!(ids(&pop(&order, &q, 1).await), NONE);
}

#[tokio::test]
async fn a_server_that_is_dead_at_the_start_may_come_later() {
    let server = RedisServer::start().expect("a server");
    server.stop().expect("a stop");
    let redis = open(&options(&server));
    let order = RedisOrder::new(&redis);
    every_call_fails_fast(&order).await;
    assert!(redis.is_down());
    server.resume().expect("a start");
    comes_back(&order).await;
    assert!(!redis.is_down());
}

#[tokio::test]
async fn a_frozen_server_is_given_up_and_every_connection_comes_back() {
    let server = RedisServer::start().expect("a server");
    let wait = Duration::from_millis(200);
    let options =
        RedisOptions { connect_timeout: wait, response_timeout: wait, pool_size: 3, ..options(&server) };
    let order = RedisOrder::new(&open(&options));
    // Opens all three, so that all of them freeze.
    let (a, b, c) = tokio::join!(order.ping(), order.ping(), order.ping());
    assert!(a.is_ok() && b.is_ok() && c.is_ok());

    server.pause().expect("a pause");
    every_call_fails_fast(&order).await;
    server.unpause().expect("an end of it");
    comes_back(&order).await;
    for _ in 0..3 {
        let (a, b, c, d) = tokio::join!(order.ping(), order.ping(), order.ping(), order.ping());
        assert!(a.is_ok() && b.is_ok() && c.is_ok() && d.is_ok(), "no place in the pool is lost");
    }
}

#[tokio::test]
async fn a_caller_that_goes_away_leaves_the_pool_sound() {
    let server = RedisServer::start().expect("a server");
    let options = RedisOptions { pool_size: 1, ..options(&server) };
    let order = RedisOrder::new(&open(&options));
    let q = queue("q");
    fill(&order, &q, &tasks(&q, 1..=1_000)).await;
    for micros in 0..200 {
        // Dropped somewhere between the checkout and the answer.
        let _ = tokio::time::timeout(Duration::from_micros(micros * 5), pop(&order, &q, 1)).await;
    }
    fill(&order, &q, &tasks(&q, [5_000])).await;
    let rest = ids(&pop(&order, &q, 10_000).await);
    assert_eq!(rest.last(), Some(&5_000), "answers still belong to their questions");
}

#[tokio::test]
async fn secrets_stay_out_of_what_people_read() {
    let server = RedisServer::start().expect("a server");
    let url = server.url().replace("redis://", "redis://somebody:hunter2@");
    let redis = open(&RedisOptions { url, ..options(&server) });
    let refusal = redis.ping().await.expect_err("there is no such user").to_string();
    assert!(refusal.contains("authentication failed"), "{refusal}");
    for text in [refusal, format!("{redis:?}"), redis.address().to_owned()] {
        assert!(!text.contains("hunter2"), "{text}");
        assert!(text.contains(&server.port().to_string()), "{text}");
    }

    let invalid = Redis::open(RedisOptions::new("postgres://user:hunter2@host")).expect_err("not Redis");
    assert!(matches!(invalid, InvalidOptions::Url(_)));
    assert!(
        !invalid.to_string().contains("hunter2") && !format!("{invalid:?}").contains("hunter2"),
        "{invalid:?}"
    );
}

#[tokio::test]
async fn tls_urls_are_understood() {
    assert!(Redis::open(RedisOptions::new("rediss://localhost:6380")).is_ok());
}

#[tokio::test]
async fn many_calls_at_once_are_no_outage() {
    let connect_timeout = Duration::from_millis(100);
    // Only connections are short here, however slow the machine is just now.
    let response_timeout = Duration::from_secs(30);
    let redis = open(&RedisOptions {
        pool_size: 1,
        connect_timeout,
        response_timeout,
        ..options(RedisServer::shared())
    });
    let order = RedisOrder::new(&redis);
    comes_back(&order).await;
    let q = queue("q");
    let many = tasks(&q, 1..=2_000);
    let pushes = futures_util::future::join_all((0..200).map(|_| order.push(&many))).await;
    let errors: Vec<_> = pushes.into_iter().filter_map(Result::err).map(|error| error.to_string()).collect();
    assert!(!errors.is_empty(), "two hundred long calls over one connection do not fit into 100 ms");
    let other = errors.iter().find(|error| !error.contains("all connections were busy"));
    assert_eq!(other, None);
    assert!(!redis.is_down(), "whoever comes later is served");
    comes_back(&order).await;
}

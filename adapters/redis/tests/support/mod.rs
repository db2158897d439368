//! What the tests against a real server share.
#![allow(dead_code)] // each test binary uses its own part

use std::{future::Future, time::Duration};

use application::ports::{Order, Popped, Waiting};
use contract_tests::servers::RedisServer;
use domain::{Priority, QueueName, Rank, Suspicion, TaskId};
use redis_adapter::{Redis, RedisOptions, RedisOrder};
use tokio::time::{Instant, sleep};

/// Options for a server, with a prefix that no other test uses.
pub(crate) fn options(server: &RedisServer) -> RedisOptions {
    RedisOptions { prefix: format!("test-{:016x}", rand::random::<u64>()), ..RedisOptions::new(server.url()) }
}

pub(crate) fn open(options: &RedisOptions) -> Redis {
    Redis::open(options.clone()).expect("valid options")
}

/// An order of this test alone on the shared server.
pub(crate) fn order(window: usize) -> RedisOrder {
    RedisOrder::new(&open(&options(RedisServer::shared()))).with_window(window)
}

pub(crate) fn queue(name: &str) -> QueueName {
    QueueName::new(name).expect("a valid name")
}

pub(crate) fn waiting(queue: &QueueName, priority: i64, id: i64) -> Waiting {
    Waiting {
        id: TaskId(id),
        queue: queue.clone(),
        priority: Priority::new(priority).expect("0 to 9"),
        rank: Rank(id),
        suspicion: Suspicion::None,
    }
}

/// Tasks of the default priority.
pub(crate) fn tasks(queue: &QueueName, ids: impl IntoIterator<Item = i64>) -> Vec<Waiting> {
    ids.into_iter().map(|id| waiting(queue, 5, id)).collect()
}

pub(crate) fn ids(popped: &Popped) -> Vec<i64> {
    popped.ids.iter().map(|id| id.0).collect()
}

/// Says that all that waits in a queue is this.
pub(crate) async fn fill(order: &RedisOrder, queue: &QueueName, tasks: &[Waiting]) {
    let mark = order.mark(queue).await.expect("a mark");
    order.refill(queue, mark, tasks, true).await.expect("a refill");
}

pub(crate) async fn pop(order: &RedisOrder, queue: &QueueName, limit: usize) -> Popped {
    order.pop(&[(queue.clone(), limit)], limit).await.expect("a pop")
}

/// A plain connection, to look at what is there.
pub(crate) async fn spy(url: &str) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(url).expect("a valid URL");
    client.get_multiplexed_async_connection().await.expect("a connection")
}

/// Looks again and again until another process is so far.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut so: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !so().await {
        assert!(Instant::now() < deadline, "in vain: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// No ids.
pub(crate) const NONE: [i64; 0] = [];

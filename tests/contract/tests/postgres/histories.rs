//! Many short random histories on PostgreSQL, each on empty tables: what `contract_tests::mirror` says, over and over.
//!
//! `TASK_RUNNER_HISTORIES` says how many (40 otherwise), `TASK_RUNNER_SEED` which the first is (1 otherwise).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use application::ports::Store;
use async_trait::async_trait;
use contract_tests::{Harness, mirror::history, servers::PostgresServer};
use postgres_adapter::{PostgresOptions, PostgresStore, TestClock};
use sqlx::{Connection as _, PgConnection};

/// How long each is.
const STEPS: usize = 60;
/// How many are played side by side.
const SIDE_BY_SIDE: usize = 4;

struct Fresh {
    store: Arc<PostgresStore>,
    clock: TestClock,
}

#[async_trait]
impl Harness for Fresh {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    async fn turn_back(&self, by: Duration) {
        self.clock.set(self.clock.now() - by);
    }
}

// A test reads its own settings.
#[allow(clippy::disallowed_methods)]
fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().map_or(otherwise, |text| {
        text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}, which is no number"))
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn random_histories_are_answered_as_in_memory() {
    let (count, first) = (setting("TASK_RUNNER_HISTORIES", 40), setting("TASK_RUNNER_SEED", 1));
    let next = Arc::new(AtomicU64::new(0));
    let players: Vec<_> = (0..SIDE_BY_SIDE)
        .map(|_| {
            let next = Arc::clone(&next);
            tokio::spawn(async move {
                let url = PostgresServer::shared().create_database().await;
                let mut cleaner = PgConnection::connect(&url).await.expect("a connection");
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        return;
                    }
                    empty(&mut cleaner).await;
                    let clock = TestClock::new("2026-11-20T12:00:00Z".parse().expect("a moment"));
                    let options = PostgresOptions { max_connections: 2, ..PostgresOptions::default() };
                    let store = PostgresStore::connect_with_clock(&url, &options, clock.clone()).await;
                    let fresh = Fresh { store: Arc::new(store.expect("a store")), clock };
                    history(&fresh, first + number, STEPS).await;
                }
            })
        })
        .collect();
    for player in players {
        player.await.expect("a history went wrong: its message names the seed");
    }
    println!("{count} histories of {STEPS} steps from seed {first} on");
}

async fn empty(cleaner: &mut PgConnection) {
    let tables =
        "task, live, outcome, attempt, progress, chunk, tally_delta, worker, claim_batch, idempotency_key";
    let truncate = format!("TRUNCATE {tables} RESTART IDENTITY");
    sqlx::query(sqlx::AssertSqlSafe(truncate)).execute(cleaner).await.expect("emptied");
}

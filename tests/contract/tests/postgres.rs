//! The store on PostgreSQL keeps every promise.

use std::{sync::Arc, time::Duration};

use application::ports::Store;
use async_trait::async_trait;
use contract_tests::{Harness, servers::PostgresServer};
use postgres_adapter::{PostgresOptions, PostgresStore, TestClock};

struct Postgres {
    store: Arc<PostgresStore>,
    clock: TestClock,
}

#[async_trait]
impl Harness for Postgres {
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

async fn fresh() -> Postgres {
    let url = PostgresServer::shared().create_database().await;
    let clock = TestClock::new("2026-11-20T12:00:00Z".parse().expect("a moment"));
    // However slow the machine is just now: what a slow scan leaves out is told in `slow_scan`.
    let slow_scan = Duration::MAX;
    let options = PostgresOptions { max_connections: 8, slow_scan, ..PostgresOptions::default() };
    let store = PostgresStore::connect_with_clock(&url, &options, clock.clone()).await.expect("a store");
    Postgres { store: Arc::new(store), clock }
}

contract_tests::store_contract!(fresh);

// What only PostgreSQL has.
#[path = "postgres/inbox.rs"]
mod inbox;
#[path = "postgres/once.rs"]
mod once;
#[path = "postgres/plans.rs"]
mod plans;
#[path = "postgres/schema.rs"]
mod schema;
#[path = "postgres/trouble.rs"]
mod trouble;
#[path = "postgres/version_1.rs"]
mod version_1;

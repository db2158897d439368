//! Random histories of claims, heartbeats, outcomes, cancellations, burials and jumps of the clock, each on empty tables of
//! PostgreSQL, and each played to the store in memory at the same time: every answer must be the same
//! (`contract_tests::mirror`).

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use application::ports::Store;
use async_trait::async_trait;
use contract_tests::{Harness, mirror::history, servers::PostgresServer};
use postgres_adapter::{PostgresOptions, PostgresStore, TestClock};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use crate::scale::{Finding, Scale};

/// How long each is.
const STEPS: usize = 60;
/// How many are played side by side.
const SIDE_BY_SIDE: usize = 4;

/// The seeds follow on one another, so a history that goes wrong can be played alone.
pub async fn run(scale: &Scale) -> Result<Finding> {
    let count = scale.of(40, 10_000);
    let (first, next) = (scale.seed.wrapping_mul(1_000_003), Arc::new(AtomicU64::new(0)));
    let players: Vec<_> =
        (0..SIDE_BY_SIDE).map(|_| tokio::spawn(play(first, Arc::clone(&next), count))).collect();
    let mut violations = Vec::new();
    for player in players {
        match player.await {
            Ok(played) => played?,
            // The message of the assertion names seed and step.
            Err(panicked) => {
                violations.push(format!("a history went another way than in memory: {panicked}"));
            }
        }
    }
    let done = format!("{count} random histories of {STEPS} steps, from seed {first} on");
    let found = format!("{} histories answered otherwise than in memory", violations.len());
    Ok(Finding { done, found, violations })
}

async fn play(first: u64, next: Arc<AtomicU64>, count: u64) -> Result<()> {
    let url = PostgresServer::shared().create_database().await;
    let mut cleaner = PgConnection::connect(&url).await?;
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= count {
            return Ok(());
        }
        empty(&mut cleaner).await?;
        let clock = TestClock::new("2026-11-20T12:00:00Z".parse().map_err(|error| anyhow!("{error}"))?);
        let slow_scan = Duration::MAX; // the memory store leaves nothing out
        let options = PostgresOptions { max_connections: 2, slow_scan, ..PostgresOptions::default() };
        let store = PostgresStore::connect_with_clock(&url, &options, clock.clone()).await?;
        history(&Fresh { store: Arc::new(store), clock }, first.wrapping_add(number), STEPS).await;
    }
}

/// Empties every table but the list of migrations.
async fn empty(cleaner: &mut PgConnection) -> Result<()> {
    let tables: String = sqlx::query_scalar(
        "SELECT string_agg(quote_ident(tablename), ', ') FROM pg_tables
         WHERE schemaname = current_schema() AND tablename <> '_sqlx_migrations'",
    )
    .fetch_one(&mut *cleaner)
    .await
    .context("the names of the tables")?;
    let truncate = format!("TRUNCATE {tables} RESTART IDENTITY");
    sqlx::query(AssertSqlSafe(truncate)).execute(cleaner).await.context("emptying the tables")?;
    Ok(())
}

/// A store on empty tables.
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

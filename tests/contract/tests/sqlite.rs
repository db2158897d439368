//! The store on SQLite, held to the contract, and to what only a file on one machine promises.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use application::ports::Store;
use async_trait::async_trait;
use contract_tests::Harness;
use domain::Timestamp;
use sqlite_adapter::{SqliteOptions, SqliteStore};
use tempfile::TempDir;

struct Sqlite {
    store: Arc<SqliteStore>,
    now: Arc<AtomicI64>,
    _folder: TempDir,
}

#[async_trait]
impl Harness for Sqlite {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }

    async fn advance(&self, by: Duration) {
        let by = i64::try_from(by.as_micros()).expect("a short way");
        self.now.fetch_add(by, Ordering::SeqCst);
    }

    async fn turn_back(&self, by: Duration) {
        let by = i64::try_from(by.as_micros()).expect("a short way");
        self.now.fetch_sub(by, Ordering::SeqCst);
    }
}

async fn fresh() -> Sqlite {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let start: Timestamp = "2026-11-22T12:00:00.000001Z".parse().expect("a moment");
    let now = Arc::new(AtomicI64::new(start.timestamp_micros()));
    let clock = {
        let now = now.clone();
        move || Timestamp::from_timestamp_micros(now.load(Ordering::SeqCst)).expect("a moment")
    };
    let path = folder.path().join("data").join("tasks.db");
    let store = SqliteStore::with_clock(path, SqliteOptions::default(), clock).await.expect("it opens");
    Sqlite { store: Arc::new(store), now, _folder: folder }
}

contract_tests::store_contract!(fresh);

// What only a file has.
#[path = "sqlite/version_1.rs"]
mod version_1;

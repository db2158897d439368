//! A file that a program of schema 0001 has left behind opens with this one: nothing in it is lost, and what was under
//! way goes on.

use std::{path::Path, sync::Arc};

use application::ports::Store;
use contract_tests::fixtures::*;
use domain::{Event, Status, TaskId, Tenant};
use sqlite_adapter::{SqliteOptions, SqliteStore};
use sqlx::{ConnectOptions, Connection, migrate::Migrator, sqlite::SqliteConnectOptions};

/// Makes the file as a program of 0001 did, with all that it kept.
async fn left_by_version_1(path: &Path) {
    let mut connection =
        SqliteConnectOptions::new().filename(path).create_if_missing(true).connect().await.expect("a file");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations/sqlite");
    let mut migrator = Migrator::new(folder).await.expect("the migrations");
    let first = migrator.iter().filter(|migration| migration.version == 1).cloned().collect::<Vec<_>>();
    assert_eq!(first.len(), 1);
    migrator.migrations = first.into();
    migrator.run(&mut connection).await.expect("schema 0001");
    sqlx::raw_sql(include_str!("version_1.sql")).execute(&mut connection).await.expect("its rows");
    connection.close().await.expect("closed");
}

#[tokio::test]
async fn a_file_of_version_1_opens_and_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tasks.db");
    left_by_version_1(&path).await;

    let opened = SqliteStore::open(&path, SqliteOptions::default()).await.expect("it opens");
    let store: Arc<dyn Store> = Arc::new(opened);
    let store = store.as_ref();
    let stands = |id| async move { read(store, TaskId(id)).await.status };
    for (id, status) in [
        (1, Status::Pending),
        (2, Status::Scheduled),
        (3, Status::Processing),
        (4, Status::Completed),
        (5, Status::Failed),
        (6, Status::Pending),
    ] {
        assert_eq!(stands(id).await, status, "task {id}");
    }
    let done = read(store, TaskId(4)).await;
    assert_eq!(done.result.expect("a result").as_str(), r#"{"n":4}"#);
    assert_eq!(done.metadata.expect("notes").as_str(), r#"{"note":"kept"}"#);
    assert_eq!(told(&read(store, TaskId(5)).await.error), Some(("busy", "try later")));
    assert_counts(store, &Tenant::default()).await;

    // The worker that left its task behind is gone, and the task is taken over.
    let orphans = store.orphans(10).await.expect("orphans");
    assert_eq!(orphans.iter().map(|orphan| orphan.id).collect::<Vec<_>>(), [TaskId(3)]);
    let crashed = domain::decide(
        domain::State::Processing { cancel_requested: false },
        orphans[0].counters,
        Event::LoseWorker { charged: true },
    );
    let crashed = application::ports::Settlement {
        task: TaskId(3),
        attempt: orphans[0].counters.attempt,
        change: crashed.expect("it may crash"),
        result: None,
        details: None,
        calls: Vec::new(),
        knew_of_cancel: false,
    };
    settled(store, orphans[0].worker, crashed).await;

    // Every task that waits can be taken, and ends: the suspects of either version among them.
    let worker = worker(store).await;
    let mut taken = claim_next(store, worker, &[("q", 10)], 10).await;
    for suspicion in [domain::Suspicion::Shared, domain::Suspicion::Alone] {
        let claim = application::ports::Claim::Suspects { queues: vec![queue("q")], suspicion, limit: 10 };
        taken.extend(store.claim(worker, &claim).await.expect("claimed"));
    }
    assert_eq!(sorted_ids(&taken), [TaskId(1), TaskId(3), TaskId(6)]);
    for task in &taken {
        settled(store, worker, success(task, "\"done\"")).await;
        assert_eq!(stands(task.id.0).await, Status::Completed);
    }
    let attempts = store.attempts(&Tenant::default(), TaskId(6)).await.expect("readable").expect("known");
    assert_eq!(attempts.len(), 2, "what version 1 kept of the first one, and this one");
    assert_counts(store, &Tenant::default()).await;
    assert_eq!(submit_one(store, task()).await, TaskId(7), "numbers go on");
}

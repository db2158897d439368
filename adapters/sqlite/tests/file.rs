//! What a store in a file promises beyond the contract: one process at a time, nothing lost from one to the next.

use std::{path::PathBuf, time::Duration};

use application::ports::{
    Applied, Claim, ListPage, Patience, Settlement, StoreError, Submitted, TaskFilter, TaskStore,
    UpkeepStore, WorkStore, WorkerProfile,
};
use domain::{
    Event, Json, Limits, NewTask, Priority, QueueName, Start, State, Status, Suspicion, TaskId, TaskType,
    Tenant, WorkerName, decide,
};
use sqlite_adapter::{OpenError, SqliteOptions, SqliteStore};
use tempfile::TempDir;

struct Place {
    path: PathBuf,
    _folder: TempDir,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Self { path: folder.path().join("data/deep/tasks.db"), _folder: folder }
    }

    async fn open(&self) -> Result<SqliteStore, OpenError> {
        SqliteStore::open(&self.path, SqliteOptions::default()).await
    }
}

fn task() -> NewTask {
    NewTask {
        tenant: Tenant::default(),
        task_type: TaskType::new("demo.echo").expect("a valid type"),
        queue: QueueName::default_queue(),
        priority: Priority::default(),
        input: Json::parse("{ }").expect("valid JSON"),
        metadata: None,
        start: Start::Now,
        expires_at: None,
        limits: Limits::default(),
        own: Default::default(),
        idempotency: None,
        unique: None,
        share: None,
    }
}

/// Stores tasks and answers their numbers.
async fn submit(store: &SqliteStore, tasks: &[NewTask]) -> Vec<TaskId> {
    let number = |outcome| match outcome {
        Submitted::New(receipt) => receipt.id,
        other => panic!("not stored: {other:?}"),
    };
    store.submit(tasks).await.expect("submit").into_iter().map(number).collect()
}

fn profile() -> WorkerProfile {
    WorkerProfile {
        name: WorkerName::new("w@host").expect("a valid worker name"),
        queues: Vec::new(),
        except: Vec::new(),
        concurrency: 1,
        lease: Duration::from_secs(12),
        about: None,
    }
}

#[tokio::test]
async fn a_second_opening_is_refused_in_words_until_the_first_is_closed() {
    let place = Place::new();
    let first = place.open().await.expect("it opens");
    let refusal = place.open().await.expect_err("it is in use");
    assert!(matches!(&refusal, OpenError::InUse(path) if *path == place.path));
    let told = refusal.to_string();
    assert!(told.contains("tasks.db") && told.contains("stop that one first"), "{told}");
    first.close().await;
    assert!(matches!(first.submit(&[task()]).await, Err(StoreError::Unavailable(_))));
    assert!(matches!(first.ping().await, Err(StoreError::Unavailable(_))));
    place.open().await.expect("it opens again").close().await;
}

#[tokio::test]
async fn the_next_process_goes_on_where_the_last_one_stopped() {
    let place = Place::new();
    let store = place.open().await.expect("it opens");
    let worker = store.register(&profile()).await.expect("register");
    let ids = submit(&store, &[task(), task()]).await;
    let (runs, waits) = (ids[0], ids[1]);
    assert_eq!(store.claim(worker, &Claim::Ids(vec![runs])).await.expect("claim").len(), 1);
    let counts = store.counts(&Tenant::default()).await.expect("counts");
    store.close().await;

    let store = place.open().await.expect("it opens again");
    assert_eq!(store.counts(&Tenant::default()).await.expect("counts"), counts);
    let tasks = store.read(&Tenant::default(), &[runs, waits]).await.expect("read");
    assert_eq!(
        tasks.iter().map(|task| task.status).collect::<Vec<_>>(),
        [Status::Processing, Status::Pending]
    );
    // The worker of the earlier process is dead, and what it held can be taken over at once.
    assert!(!store.heartbeat(worker).await.expect("heartbeat"));
    let orphans = store.orphans(10).await.expect("orphans");
    assert_eq!(orphans.len(), 1);
    assert_eq!((orphans[0].id, orphans[0].worker, orphans[0].worker_retired), (runs, worker, false));
    let state = State::Processing { cancel_requested: false };
    let lost = Settlement {
        task: runs,
        attempt: orphans[0].counters.attempt,
        change: decide(state, orphans[0].counters, Event::LoseWorker { charged: true }).expect("it runs"),
        result: None,
        details: None,
        calls: Vec::new(),
        knew_of_cancel: false,
    };
    assert_eq!(store.settle(worker, &[lost]).await.expect("settle"), [Applied::Yes]);
    let anew = store.register(&profile()).await.expect("register");
    assert!(anew > worker, "a fresh id");
    let queues = vec![QueueName::default_queue()];
    let suspects = Claim::Suspects { queues, suspicion: Suspicion::Shared, limit: 10 };
    let next =
        Claim::Next { queues: vec![(QueueName::default_queue(), 10)], limit: 10, patience: Patience::Any };
    for (claim, expected) in [(suspects, (runs, 2)), (next, (waits, 1))] {
        let claimed = store.claim(anew, &claim).await.expect("claim");
        let claimed: Vec<_> = claimed.iter().map(|task| (task.id, task.counters.attempt)).collect();
        assert_eq!(claimed, [expected]);
    }
    // Ids go on, also past one that was deleted.
    let third = submit(&store, &[task()]).await[0];
    assert!(third > waits);
    store.delete(&Tenant::default(), &[third]).await.expect("delete");
    store.close().await;
    let store = place.open().await.expect("it opens once more");
    assert!(submit(&store, &[task()]).await[0] > third, "no id is given twice");
    store.close().await;
}

#[tokio::test]
async fn a_store_that_was_only_dropped_loses_nothing_and_lets_go() {
    let place = Place::new();
    let store = place.open().await.expect("it opens");
    store.submit(&vec![task(); 100]).await.expect("submit");
    drop(store);
    // The writer ends by itself once nobody can ask it for anything.
    let store = tokio::time::timeout(Duration::from_secs(30), async {
        loop {
            match place.open().await {
                Ok(store) => break store,
                Err(OpenError::InUse(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    });
    let store = store.await.expect("it is let go");
    let page = ListPage { before: None, limit: 500 };
    let tasks = store.list(&Tenant::default(), &TaskFilter::default(), page).await.expect("list");
    assert_eq!(tasks.len(), 100);
    store.close().await;
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_can_read_the_files() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let store = place.open().await.expect("it opens");
    store.submit(&[task()]).await.expect("submit");
    let folder = place.path.parent().expect("a folder");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let entry = entry.expect("an entry");
        let mode = entry.metadata().expect("metadata").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{:?}", entry.path());
        names.push(entry.file_name());
    }
    assert!(names.len() >= 3, "database, log and lock: {names:?}");
    store.close().await;
}

#[tokio::test]
async fn what_is_no_database_is_refused_in_words() {
    let place = Place::new();
    std::fs::create_dir_all(place.path.parent().expect("a folder")).expect("a folder");
    std::fs::write(&place.path, "This is a letter to my aunt, and certainly no database.").expect("a file");
    let refusal = place.open().await.expect_err("no database").to_string();
    assert!(refusal.contains("tasks.db") && refusal.contains("not a database"), "{refusal}");
    let letter = std::fs::read_to_string(&place.path).expect("still there");
    assert!(letter.contains("aunt"), "what is not ours is left alone");
    // A folder where a file should be.
    let place = Place::new();
    std::fs::create_dir_all(&place.path).expect("a folder");
    let refusal = place.open().await.expect_err("a folder");
    assert!(matches!(&refusal, OpenError::File { path, .. } if *path == place.path), "{refusal}");
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_refused() {
    use sqlx::{ConnectOptions, sqlite::SqliteConnectOptions};
    let place = Place::new();
    place.open().await.expect("it opens").close().await;
    let mut newer = SqliteConnectOptions::new().filename(&place.path).connect().await.expect("it opens");
    let mark = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                VALUES (9999, 'from the future', true, x'00', 0)";
    sqlx::query(mark).execute(&mut newer).await.expect("a mark");
    sqlx::Connection::close(newer).await.expect("closed");
    let refusal = place.open().await.expect_err("too new");
    assert!(matches!(refusal, OpenError::Migration { .. }), "{refusal}");
    assert!(refusal.to_string().contains("9999"), "{refusal}");
}

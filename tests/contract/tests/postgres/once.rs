//! Submitting once, where many ask at the same time: several stores, as in several processes, on one database.

use std::{collections::HashSet, sync::Arc, time::Duration};

use application::ports::{DiscardOutcome, Retry, RetryOutcome, StoreError, Submitted, TaskStore, WorkStore};
use contract_tests::{fixtures::*, servers::PostgresServer};
use domain::{Failure, Idempotency, IdempotencyKey, NewTask, Status, TaskId, Tenant, Unique, UniqueKey};
use postgres_adapter::{PostgresOptions, PostgresStore};
use sqlx::{Connection, PgConnection};

/// How many ask at once.
const CALLERS: usize = 100;

async fn stores(n: usize) -> (String, Vec<Arc<PostgresStore>>) {
    let url = PostgresServer::shared().create_database().await;
    let options = PostgresOptions { max_connections: 6, ..PostgresOptions::default() };
    let mut stores = Vec::new();
    for _ in 0..n {
        stores.push(Arc::new(PostgresStore::connect(&url, &options).await.expect("a store")));
    }
    (url, stores)
}

fn request(key: &str) -> NewTask {
    let key = IdempotencyKey::new(key).expect("a valid key");
    NewTask { idempotency: Some(Idempotency { key, fingerprint: [7; 32] }), ..task() }
}

fn unique(key: &str) -> NewTask {
    let key = UniqueKey::new(key).expect("a valid key");
    NewTask { unique: Some(Unique { key, among: Unique::UNFINISHED.to_vec(), window: None }), ..task() }
}

/// All callers at once, spread over the stores.
async fn submit_at_once(stores: &[Arc<PostgresStore>], batches: Vec<Vec<NewTask>>) -> Vec<Vec<Submitted>> {
    let start = Arc::new(tokio::sync::Barrier::new(batches.len()));
    let calls: Vec<_> = batches
        .into_iter()
        .enumerate()
        .map(|(n, batch)| {
            let (store, start) = (stores[n % stores.len()].clone(), start.clone());
            tokio::spawn(async move {
                start.wait().await;
                store.submit(&batch).await.expect("submit")
            })
        })
        .collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.expect("no panic"));
    }
    answers
}

fn id(submitted: &Submitted) -> TaskId {
    match submitted {
        Submitted::New(receipt) | Submitted::Replayed(receipt) => receipt.id,
        Submitted::KeyReused(id) | Submitted::Existing(id) => *id,
    }
}

async fn number_of_tasks(store: &PostgresStore) -> usize {
    let counts = store.counts(&Tenant::default()).await.expect("counts");
    assert_counts_match(store, counts.iter().map(|line| line.count).sum()).await
}

async fn assert_counts_match(store: &PostgresStore, counted: u64) -> usize {
    let all = everything(store, &Tenant::default()).await.len();
    assert_eq!(all as u64, counted, "the counts are those of the tasks");
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_key_at_once_is_one_task() {
    let (_, stores) = stores(3).await;
    let answers = submit_at_once(&stores, vec![vec![request("order-1")]; CALLERS]).await;
    let new = answers.iter().filter(|answer| matches!(answer[0], Submitted::New(_))).count();
    let replayed = answers.iter().filter(|answer| matches!(answer[0], Submitted::Replayed(_))).count();
    assert_eq!((new, replayed), (1, CALLERS - 1));
    assert_eq!(answers.iter().map(|answer| id(&answer[0])).collect::<HashSet<_>>().len(), 1);
    assert_eq!(number_of_tasks(&stores[0]).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_unique_key_at_once_is_one_task() {
    let (_, stores) = stores(3).await;
    let answers = submit_at_once(&stores, vec![vec![unique("report 7")]; CALLERS]).await;
    let new = answers.iter().filter(|answer| matches!(answer[0], Submitted::New(_))).count();
    let existing = answers.iter().filter(|answer| matches!(answer[0], Submitted::Existing(_))).count();
    assert_eq!((new, existing), (1, CALLERS - 1));
    assert_eq!(answers.iter().map(|answer| id(&answer[0])).collect::<HashSet<_>>().len(), 1);
    assert_eq!(number_of_tasks(&stores[0]).await, 1);
}

/// Batches that name the same keys in every order: none waits for ever, none is refused, each key makes one task.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn overlapping_batches_come_through() {
    const KEYS: usize = 40;
    const ROUNDS: usize = 8;
    let (url, stores) = stores(4).await;
    for round in 0..ROUNDS {
        let batches = (0..24)
            .map(|caller| {
                // Steps that share no factor with the number of keys: each batch is a walk of its own through all.
                let step = [1, 3, 7, 9, 11, 13, 17, 19][caller % 8];
                (0..KEYS)
                    .map(|n| (caller + n * step) % KEYS)
                    .map(|key| NewTask {
                        unique: unique(&format!("u{round}-{}", key / 2)).unique,
                        ..request(&format!("r{round}-{key}"))
                    })
                    .collect()
            })
            .collect();
        let answers = submit_at_once(&stores, batches).await;
        let new = answers.iter().flatten().filter(|answer| matches!(answer, Submitted::New(_))).count();
        assert_eq!(new, KEYS / 2, "one task for each pair of keys that shares a unique one");
        for answer in &answers {
            let ids: Vec<_> = answer.iter().filter(|one| matches!(one, Submitted::New(_))).map(id).collect();
            assert!(ids.is_sorted(), "ids rise in the order given: {ids:?}");
        }
    }
    assert_eq!(number_of_tasks(&stores[0]).await, ROUNDS * KEYS / 2);
    let mut admin = PgConnection::connect(&url).await.expect("a connection");
    // The answers are the proof; this says that they did not come by way of collisions. The server counts when sessions end.
    drop(stores);
    let others = "SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    let ended = async {
        while sqlx::query_scalar::<_, i64>(others).fetch_one(&mut admin).await.expect("activity") > 0 {}
    };
    tokio::time::timeout(Duration::from_secs(30), ended).await.expect("the stores' sessions end with them");
    let deadlocks: i64 =
        sqlx::query_scalar("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
            .fetch_one(&mut admin)
            .await
            .expect("statistics");
    assert_eq!(deadlocks, 0);
}

/// The answer to a COMMIT is lost with the connection; asking again finds the task.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_left_asks_again_and_finds_its_task() {
    let (url, stores) = stores(1).await;
    let mut admin = PgConnection::connect(&url).await.expect("a connection");
    for n in 0..20 {
        let request = request(&format!("order-{n}"));
        // Somebody holds the table, so the call is under way when its session is ended; whether it is committed depends
        // on which of the two comes first.
        sqlx::raw_sql("BEGIN; LOCK TABLE live IN SHARE MODE").execute(&mut admin).await.expect("a lock");
        let call = tokio::spawn({
            let (store, request) = (stores[0].clone(), request.clone());
            async move { store.submit(&[request]).await }
        });
        let waiting = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted
            AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        tokio::time::timeout(Duration::from_secs(30), async {
            while !sqlx::query_scalar::<_, bool>(waiting).fetch_one(&mut admin).await.expect("locks") {}
        })
        .await
        .expect("the call waits for the lock");
        sqlx::raw_sql(
            "COMMIT; SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .execute(&mut admin)
        .await
        .expect("the sessions end");
        let first = call.await.expect("no panic");
        assert!(matches!(first, Ok(_) | Err(StoreError::Unavailable(_))), "{first:?}");
        let mut again = stores[0].submit(std::slice::from_ref(&request)).await;
        if again.is_err() {
            again = stores[0].submit(&[request]).await;
        }
        let again = again.expect("the server is there")[0];
        if let Ok(first) = first {
            assert_eq!(
                again,
                Submitted::Replayed(match first[0] {
                    Submitted::New(receipt) => receipt,
                    other => panic!("{other:?}"),
                })
            );
        }
        assert_eq!(number_of_tasks(&stores[0]).await, n + 1, "one key, one task");
    }
}

/// Many bring the same ended tasks back, and others remove them at the same time: each task comes back once, or is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_ended_task_comes_back_once() {
    let (_, stores) = stores(3).await;
    let first = &*stores[0];
    let worker = worker(first).await;
    let ids = submit_many(first, 60).await;
    let claimed = claim(first, worker, &ids).await;
    let ends: Vec<_> =
        claimed.iter().map(|task| failure(task, Failure::permanent("bad", "bad input"))).collect();
    first.settle(worker, &ends).await.expect("settle");
    let start = Arc::new(tokio::sync::Barrier::new(24));
    let calls: Vec<_> = (0..24)
        .map(|n| {
            let (store, start, mut ids) = (stores[n % stores.len()].clone(), start.clone(), ids.clone());
            ids.rotate_left(n * 7 % 60);
            tokio::spawn(async move {
                start.wait().await;
                if n % 4 == 0 {
                    let gone = store.discard(&Tenant::default(), &ids[..20]).await.expect("discard");
                    (0, gone.iter().filter(|outcome| **outcome == DiscardOutcome::Discarded).count())
                } else {
                    let tasks: Vec<_> = ids.iter().map(|id| Retry { id: *id, input: None }).collect();
                    let back = store.retry(&Tenant::default(), &tasks).await.expect("retry");
                    (back.iter().filter(|outcome| matches!(outcome, RetryOutcome::Waiting(..))).count(), 0)
                }
            })
        })
        .collect();
    let (mut back, mut gone) = (0, 0);
    for call in calls {
        let (waiting, discarded) = call.await.expect("no panic");
        (back, gone) = (back + waiting, gone + discarded);
    }
    assert_eq!(back + gone, 60, "each task once: {back} came back, {gone} are gone");
    let shown = everything(first, &Tenant::default()).await;
    assert_eq!(shown.len(), back);
    assert!(shown.iter().all(|task| (task.status, task.attempt) == (Status::Pending, 1)));
    assert_eq!(number_of_tasks(first).await, back);
}

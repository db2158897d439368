//! Faults: a server that goes away, statements that hang, callers that leave, rows that are lost or cannot be read.

use std::{future::Future, sync::Arc, time::Duration};

use application::ports::{Claim, LimitedClaim, StoreError, Submitted, TaskStore, UpkeepStore, WorkStore};
use contract_tests::{
    fixtures::*,
    servers::{PostgresServer, SmallDisk},
};
use domain::{AttemptOutcome, Json, NewTask, QueueLimits, Status, Suspicion, Tenant};
use postgres_adapter::{PostgresOptions, PostgresStore};
use sqlx::{Connection, PgConnection, Row};

/// How long anything here may take.
const PATIENCE: Duration = Duration::from_secs(30);

async fn open(url: &str, options: PostgresOptions) -> Arc<PostgresStore> {
    Arc::new(PostgresStore::connect(url, &options).await.expect("a store"))
}

async fn fresh() -> (String, Arc<PostgresStore>) {
    let url = PostgresServer::shared().create_database().await;
    let store = open(&url, PostgresOptions { max_connections: 4, ..PostgresOptions::default() }).await;
    (url, store)
}

/// Looks again and again until it is so.
async fn until<F: Future<Output = bool>>(what: &str, mut look: impl FnMut() -> F) {
    let looking = async { while !look().await {} };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("in time: {what}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_recovers_when_the_server_comes_back() {
    let server = PostgresServer::start().expect("a server of its own");
    let store = open(&server.create_database().await, PostgresOptions::default()).await;
    let worker = worker(&*store).await;
    // Several connections that will all be dead.
    let calls: Vec<_> = (0..10)
        .map(|_| {
            tokio::spawn({
                let store = store.clone();
                async move { submit_many(&*store, 10).await }
            })
        })
        .collect();
    for call in calls {
        call.await.expect("no panic");
    }
    for crash in [false, true] {
        let held = running(&*store, worker).await;
        if crash { server.crash() } else { server.stop() }.expect("stop");
        let answer = store.submit(&[task()]).await;
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
        server.resume().expect("start again");
        assert_eq!(submit_many(&*store, 1).await.len(), 1, "the first call after that is answered");
        settled(&*store, worker, success(&held, "1")).await;
    }
    // Calls that find dead connections in the pool are answered too.
    server.stop().expect("stop");
    server.resume().expect("start again");
    let mut failed = 0;
    for _ in 0..10 {
        failed += usize::from(store.ping().await.is_err());
    }
    assert!(failed <= 1, "{failed} of 10 calls failed after a restart that nobody saw");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_hangs_ends_and_gives_its_connection_back() {
    let url = PostgresServer::shared().create_database().await;
    let statement_timeout = Duration::from_millis(200);
    let store =
        open(&url, PostgresOptions { max_connections: 1, statement_timeout, ..PostgresOptions::default() })
            .await;
    let id = submit_one(&*store, task()).await;
    let mut other = PgConnection::connect(&url).await.expect("a connection");
    sqlx::raw_sql("BEGIN; LOCK TABLE live").execute(&mut other).await.expect("a lock");
    for _ in 0..3 {
        let answer = store.cancel(&Tenant::default(), &[id]).await;
        assert!(matches!(answer, Err(StoreError::Unavailable(_))), "{answer:?}");
        store.ping().await.expect("the only connection is free again");
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.expect("no lock");
    assert_eq!(read(&*store, id).await.status, Status::Pending);
    store.cancel(&Tenant::default(), &[id]).await.expect("cancel");
    assert_eq!(read(&*store, id).await.status, Status::Cancelled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn busy_connections_are_waited_for_and_then_named() {
    let url = PostgresServer::shared().create_database().await;
    let acquire_timeout = Duration::from_millis(100);
    let store =
        open(&url, PostgresOptions { max_connections: 1, acquire_timeout, ..PostgresOptions::default() })
            .await;
    let id = submit_one(&*store, task()).await;
    let mut other = PgConnection::connect(&url).await.expect("a connection");
    sqlx::raw_sql("BEGIN; LOCK TABLE live").execute(&mut other).await.expect("a lock");
    let blocked = tokio::spawn({
        let store = store.clone();
        async move { store.cancel(&Tenant::default(), &[id]).await }
    });
    let waiting = "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted";
    tokio::time::timeout(PATIENCE, async {
        while !sqlx::query_scalar::<_, bool>(waiting).fetch_one(&mut other).await.expect("locks") {}
    })
    .await
    .expect("the call waits for the lock");
    match store.ping().await {
        Err(StoreError::Unavailable(why)) => assert!(why.contains("connections"), "{why}"),
        answer => panic!("{answer:?}"),
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.expect("no lock");
    blocked.await.expect("no panic").expect("cancel");
}

/// The beginning of its transaction would be a moment at which the other still ran.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limited_claim_that_had_to_wait_bears_a_time_after_the_ends_that_it_saw() {
    let (url, store) = fresh().await;
    let worker = worker(&*store).await;
    submit_many(&*store, 2).await;
    let claim = LimitedClaim {
        queue: task().queue,
        limits: QueueLimits { max_running: Some(1), rate: None },
        suspicion: Suspicion::None,
        limit: 1,
    };
    let first = store.claim_limited(worker, &claim).await.expect("claim").tasks.remove(0);
    let mut other = PgConnection::connect(&url).await.expect("a connection");
    sqlx::raw_sql("BEGIN; SELECT FROM queue_state FOR UPDATE").execute(&mut other).await.expect("a lock");
    let claiming = tokio::spawn({
        let store = store.clone();
        async move { store.claim_limited(worker, &claim).await.expect("claim") }
    });
    let mut looker = PgConnection::connect(&url).await.expect("a connection");
    let waiting = "SELECT count(*) > 0 FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock'";
    tokio::time::timeout(PATIENCE, async {
        while !sqlx::query_scalar::<_, bool>(waiting).fetch_one(&mut looker).await.expect("activity") {}
    })
    .await
    .expect("the claim waits for the lock");
    settled(&*store, worker, success(&first, "1")).await;
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.expect("no lock");
    let second = claiming.await.expect("no panic").tasks.remove(0);
    let ended = read(&*store, first.id).await.completed_at.expect("an end");
    assert!(second.started_at > ended, "{} is not after {ended}", second.started_at);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tasks_of_a_claim_that_nobody_waited_for_are_released() {
    let (url, store) = fresh().await;
    let ids = submit_many(&*store, 20).await;
    let worker = worker(&*store).await;
    let known = start(&*store, worker, ids[0]).await;
    // The claim is on its way to the server, behind a lock, when its caller leaves.
    let mut other = PgConnection::connect(&url).await.expect("a connection");
    sqlx::raw_sql("BEGIN; LOCK TABLE live IN SHARE MODE").execute(&mut other).await.expect("a lock");
    let claim = Claim::Ids(ids.clone());
    let abandoned = tokio::time::timeout(Duration::from_millis(50), store.claim(worker, &claim)).await;
    assert!(abandoned.is_err(), "the claim is blocked");
    sqlx::raw_sql("ROLLBACK").execute(&mut other).await.expect("no lock");
    until("all but the known task are released", || async {
        assert!(store.heartbeat(worker).await.expect("heartbeat"));
        let tasks = store.read(&Tenant::default(), &ids[1..]).await.expect("read");
        tasks.iter().all(|task| task.status == Status::Pending && task.attempt == 1)
    })
    .await;
    let attempts = store.attempts(&Tenant::default(), ids[1]).await.expect("attempts").expect("known");
    assert_eq!(
        attempts.iter().map(|attempt| attempt.outcome).collect::<Vec<_>>(),
        [Some(AttemptOutcome::Released)]
    );
    settled(&*store, worker, success(&known, "1")).await;
    assert_eq!(store.claim(worker, &claim).await.expect("claim").len(), 19);
    assert_counts(&*store, &Tenant::default()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orphans_are_found_without_their_batches() {
    let (url, store) = fresh().await;
    let dead = worker(&*store).await;
    let alive = worker(&*store).await;
    let ids = submit_many(&*store, 5).await;
    claim(&*store, dead, &ids[..3]).await;
    claim(&*store, alive, &ids[3..]).await;
    let mut other = PgConnection::connect(&url).await.expect("a connection");
    sqlx::query("DELETE FROM claim_batch").execute(&mut other).await.expect("lost batches");
    sqlx::query("UPDATE worker SET dead_at = now() WHERE id = $1")
        .bind(dead.0)
        .execute(&mut other)
        .await
        .expect("dead");
    until("the audit finds them", || async {
        let mut orphans: Vec<_> =
            store.orphans(10).await.expect("orphans").iter().map(|orphan| orphan.id).collect();
        orphans.sort_unstable();
        assert!(orphans.is_empty() || orphans == ids[..3], "{orphans:?}");
        !orphans.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_go_when_their_tasks_are_settled() {
    let (url, store) = fresh().await;
    let worker = worker(&*store).await;
    let mut other = PgConnection::connect(&url).await.expect("a connection");
    let mut batches = async || {
        let count =
            sqlx::query("SELECT count(*) FROM claim_batch").fetch_one(&mut other).await.expect("count");
        count.get::<i64, _>(0)
    };
    submit_many(&*store, 6).await;
    let first = claim_next(&*store, worker, &[("q", 3)], 3).await;
    let second = claim_next(&*store, worker, &[("q", 3)], 3).await;
    assert_eq!(batches().await, 2);
    let done: Vec<_> = first.iter().map(|task| success(task, "1")).collect();
    store.settle(worker, &done).await.expect("settle");
    settled(&*store, worker, success(&second[0], "1")).await;
    assert_eq!(batches().await, 1, "the next settlement has taken the settled batch along");
    settled(&*store, worker, retry(&second[1], SECOND)).await;
    settled(&*store, worker, release(&second[2])).await;
    store.heartbeat(worker).await.expect("heartbeat");
    assert_eq!(batches().await, 0, "or else the next heartbeat does");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_cannot_be_read_does_not_stop_its_queue() {
    let (url, store) = fresh().await;
    let worker = worker(&*store).await;
    let ids = submit_many(&*store, 3).await;
    let mut other = PgConnection::connect(&url).await.expect("a connection");
    let spoil = "UPDATE task SET task_type = 'not a type' WHERE id = $1";
    sqlx::query(spoil).bind(ids[0].0).execute(&mut other).await.expect("spoiled");
    let taken = claim_next(&*store, worker, &[("q", 10)], 10).await;
    assert_eq!(contract_tests::fixtures::ids(&taken), ids[1..]);
    let outcome = sqlx::query("SELECT status, error FROM outcome WHERE task = $1").bind(ids[0].0);
    let outcome = outcome.fetch_one(&mut other).await.expect("it has ended");
    assert_eq!(outcome.get::<&str, _>(0), "FAILED");
    assert!(outcome.get::<&str, _>(1).contains("not a type"), "{}", outcome.get::<&str, _>(1));
    match store.read(&Tenant::default(), &ids).await {
        Err(StoreError::Corrupt(why)) => assert!(why.contains(&format!("task {}", ids[0])), "{why}"),
        answer => panic!("{answer:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_settlement_that_the_database_refuses_does_not_hold_up_the_others() {
    let (_, store) = fresh().await;
    let worker = worker(&*store).await;
    submit_many(&*store, 3).await;
    let taken = claim_next(&*store, worker, &[("q", 3)], 3).await;
    let mut batch: Vec<_> = taken.iter().map(|task| success(task, "1")).collect();
    batch[1].result = Some(Json::from_stored("\"\0\"".to_owned()));
    let answer = store.settle(worker, &batch).await;
    assert!(matches!(answer, Err(StoreError::Corrupt(_))), "{answer:?}");
    let ids: Vec<_> = taken.iter().map(|task| task.id).collect();
    let statuses: Vec<_> =
        store.read(&Tenant::default(), &ids).await.expect("read").iter().map(|task| task.status).collect();
    assert_eq!(statuses, [Status::Completed, Status::Processing, Status::Completed]);
    batch[1].result = None;
    let answers = store.settle(worker, &batch).await.expect("settle");
    assert_eq!(answers, [application::ports::Applied::Yes; 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn counts_stay_exact_while_they_are_compacted() {
    let (url, store) = fresh().await;
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..300 {
                    submit_one(&*store, task()).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("no panic");
    }
    let mut other = PgConnection::connect(&url).await.expect("a connection");
    let rows = async |other: &mut PgConnection| {
        sqlx::query_scalar::<_, i64>("SELECT count(*) FROM tally_delta")
            .fetch_one(other)
            .await
            .expect("count")
    };
    tokio::time::timeout(PATIENCE, async { while rows(&mut other).await >= 1_000 {} })
        .await
        .expect("compacted");
    let counts = store.counts(&Tenant::default()).await.expect("counts");
    assert_eq!(counts.iter().map(|line| line.count).collect::<Vec<_>>(), [1_200]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_comes_back_with_all_that_was_acknowledged() {
    let server = PostgresServer::start_durable().expect("a server of its own");
    let store = open(&server.create_database().await, PostgresOptions::default()).await;
    for _ in 0..3 {
        let mut ids = submit_many(&*store, 100).await;
        server.kill().expect("killed");
        // A process of its that has not noticed yet may still acknowledge something: that counts as well.
        let refused = loop {
            match store.submit(&[task()]).await {
                Ok(stored) => match stored[..] {
                    [Submitted::New(receipt)] => ids.push(receipt.id),
                    ref other => panic!("a new task, not {other:?}"),
                },
                Err(error) => break error,
            }
        };
        assert!(matches!(refused, StoreError::Unavailable(_)), "{refused}");
        server.resume().expect("start again");
        assert_eq!(store.read(&Tenant::default(), &ids).await.expect("read").len(), ids.len());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_an_outage_that_passes() {
    let disk = SmallDisk::start(96).expect("a server on a disk of its own");
    let store = open(&disk.server().create_database().await, PostgresOptions::default()).await;
    let mut kept = submit_many(&*store, 10).await;
    disk.fill().expect("filled");
    // What is allocated already is used up first.
    let large = NewTask { input: Json::from_stored(format!("\"{}\"", "x".repeat(7_000))), ..task() };
    let refused = tokio::time::timeout(PATIENCE, async {
        loop {
            match store.submit(std::slice::from_ref(&large)).await {
                Ok(outcomes) => kept.extend(outcomes.iter().filter_map(|outcome| match outcome {
                    Submitted::New(receipt) => Some(receipt.id),
                    _ => None,
                })),
                Err(error) => return error,
            }
        }
    });
    let refused = refused.await.expect("the disk is full at last");
    assert!(matches!(&refused, StoreError::Unavailable(_)), "{refused:?}");
    disk.free().expect("freed");
    until("the store takes tasks again", || async { store.submit(&[task()]).await.is_ok() }).await;
    assert_eq!(store.read(&Tenant::default(), &kept).await.expect("read").len(), kept.len());
}

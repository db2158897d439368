//! A replica of the first version beside newer ones: its statements, as it sends them, on today's schema and through the
//! migration to it. Nothing is refused, nothing is lost.

use std::{collections::HashSet, path::Path, sync::Arc};

use application::ports::{Claim, Retry, RetryOutcome, TaskStore, UpkeepStore, WorkStore};
use contract_tests::{fixtures::*, servers::PostgresServer};
use domain::{
    AttemptOutcome, Event, Failure, NewTask, Status, Suspicion, TaskId, Tenant, Timestamp, Unique, UniqueKey,
    WorkerId,
};
use postgres_adapter::{PostgresOptions, PostgresStore, TestClock};
use sqlx::{Connection, PgConnection, Row, migrate::Migrator, postgres::PgRow, postgres::types::PgInterval};
use tokio_util::sync::CancellationToken;

/// One statement of `version_1.sql`.
fn statement(name: &str) -> &'static str {
    let (_, rest) = include_str!("version_1.sql")
        .split_once(&format!("-- name: {name}\n"))
        .unwrap_or_else(|| panic!("the statement {name} is in the file"));
    rest.split("\n-- name:").next().unwrap_or(rest)
}

/// A replica of the first version, reduced to what it says to the database.
struct Old {
    connection: PgConnection,
    clock: Option<TestClock>,
}

/// A task in its hand.
#[derive(Debug, Clone, Copy)]
struct Held {
    id: i64,
    attempt: i32,
    failures: i32,
    crashes: i32,
}

impl Old {
    async fn new(url: &str, clock: Option<TestClock>) -> Self {
        Self { connection: PgConnection::connect(url).await.expect("a connection"), clock }
    }

    fn now(&self) -> Option<Timestamp> {
        self.clock.as_ref().map(TestClock::now)
    }

    async fn submit(&mut self, n: usize) -> Vec<TaskId> {
        let rows = sqlx::query(statement("submit"))
            .bind(self.now())
            .bind(vec!["default"; n])
            .bind(vec!["demo.echo"; n])
            .bind(vec!["q"; n])
            .bind(vec![5_i16; n])
            .bind(vec!["{}"; n])
            .bind(vec![None::<&str>; n])
            .bind(vec![None::<Timestamp>; n])
            .bind(vec![None::<PgInterval>; n])
            .bind(vec![None::<Timestamp>; n])
            .bind(vec![4_i32; n])
            .bind(vec![None::<i64>; n])
            .bind(vec![60_000_000_i64; n])
            .fetch_all(&mut self.connection)
            .await
            .expect("submit");
        rows.iter().map(|row| TaskId(row.get("id"))).collect()
    }

    async fn register(&mut self) -> WorkerId {
        let id = sqlx::query_scalar(statement("register"))
            .bind("old")
            .bind(Vec::<String>::new())
            .bind(10_i64)
            .bind(PgInterval { months: 0, days: 0, microseconds: 12_000_000 })
            .bind(self.now())
            .fetch_one(&mut self.connection)
            .await;
        WorkerId(id.expect("register"))
    }

    async fn heartbeat(&mut self, worker: WorkerId) -> bool {
        let query =
            sqlx::query(statement("heartbeat")).bind(worker.0).bind(Vec::<i64>::new()).bind(self.now());
        query.execute(&mut self.connection).await.expect("heartbeat").rows_affected() == 1
    }

    async fn claim_ids(&mut self, worker: WorkerId, ids: &[TaskId]) -> Vec<Held> {
        let ids: Vec<_> = ids.iter().map(|id| id.0).collect();
        let query = sqlx::query(statement("claim_ids")).bind(worker.0).bind(self.now()).bind(ids);
        query.fetch_all(&mut self.connection).await.expect("claim").iter().map(held).collect()
    }

    async fn claim_next(&mut self, worker: WorkerId, limit: i64) -> Vec<Held> {
        let query = sqlx::query(statement("claim_next")).bind(worker.0).bind(self.now());
        let query = query.bind(vec!["q"]).bind(vec![limit]).bind(limit);
        query.fetch_all(&mut self.connection).await.expect("claim").iter().map(held).collect()
    }

    /// Ends tasks as this; answers how many were still held.
    async fn finish(&mut self, worker: WorkerId, tasks: &[Held], status: &str, error: Option<&str>) -> usize {
        let n = tasks.len();
        let query = sqlx::query(statement("finish")).bind(worker.0).bind(self.now()).bind(Vec::<i64>::new());
        query
            .bind(tasks.iter().map(|task| task.id).collect::<Vec<_>>())
            .bind(tasks.iter().map(|task| task.attempt).collect::<Vec<_>>())
            .bind(vec![status; n])
            .bind(vec![status; n])
            .bind(tasks.iter().map(|task| task.failures + i32::from(error.is_some())).collect::<Vec<_>>())
            .bind(tasks.iter().map(|task| task.crashes).collect::<Vec<_>>())
            .bind(vec![error.is_none().then_some("1"); n])
            .bind(vec![None::<&str>; n])
            .bind(vec![error; n])
            .fetch_all(&mut self.connection)
            .await
            .expect("finish")
            .len()
    }

    /// Puts tasks back that it lost in a crash; answers how many were still held.
    async fn lose(&mut self, worker: WorkerId, tasks: &[Held]) -> usize {
        let n = tasks.len();
        let query = sqlx::query(statement("wait")).bind(worker.0).bind(self.now()).bind(Vec::<i64>::new());
        query
            .bind(tasks.iter().map(|task| task.id).collect::<Vec<_>>())
            .bind(tasks.iter().map(|task| task.attempt).collect::<Vec<_>>())
            .bind(vec![PgInterval { months: 0, days: 0, microseconds: 0 }; n])
            .bind(tasks.iter().map(|task| task.failures).collect::<Vec<_>>())
            .bind(tasks.iter().map(|task| task.crashes + 1).collect::<Vec<_>>())
            .bind(vec![true; n])
            .bind(vec!["CRASHED"; n])
            .bind(vec![Some(r#"{"code":"worker_lost","message":"it died","class":"transient"}"#); n])
            .bind(vec![false; n])
            .fetch_all(&mut self.connection)
            .await
            .expect("wait")
            .len()
    }

    async fn bury(&mut self, worker: WorkerId, last_heartbeat: Timestamp) -> bool {
        let query = sqlx::query(statement("bury")).bind(worker.0).bind(last_heartbeat).bind(self.now());
        query.execute(&mut self.connection).await.expect("bury").rows_affected() == 1
    }

    async fn orphans(&mut self) -> Vec<(WorkerId, Held)> {
        let gone: Vec<i64> =
            sqlx::query_scalar(statement("gone")).fetch_all(&mut self.connection).await.expect("the gone");
        let rows = sqlx::query(statement("orphans"))
            .bind(&gone)
            .bind(1_000_i64)
            .fetch_all(&mut self.connection)
            .await
            .expect("orphans");
        sqlx::query(statement("released"))
            .bind(&gone)
            .bind(self.now())
            .execute(&mut self.connection)
            .await
            .expect("releases");
        // A task that was claimed, put back and claimed again stands in two batches.
        let mut seen = HashSet::new();
        let once = rows.iter().filter(|row| seen.insert(row.get::<i64, _>("id")));
        once.map(|row| (WorkerId(row.get("worker")), held(row))).collect()
    }

    async fn promote(&mut self) -> usize {
        let query = sqlx::query(statement("promote")).bind(self.now()).bind(1_000_i64);
        query.fetch_all(&mut self.connection).await.expect("promote").len()
    }

    async fn cancel_waiting(&mut self, ids: &[TaskId]) -> usize {
        let ids: Vec<_> = ids.iter().map(|id| id.0).collect();
        sqlx::query(statement("cancel_look"))
            .bind("default")
            .bind(&ids)
            .fetch_all(&mut self.connection)
            .await
            .expect("a look");
        let query = sqlx::query(statement("end_waiting")).bind(ids).bind("CANCELLED");
        let query = query.bind(None::<&str>).bind(self.now());
        query.fetch_all(&mut self.connection).await.expect("cancel").len()
    }
}

fn held(row: &PgRow) -> Held {
    Held {
        id: row.get("id"),
        attempt: row.get("attempt"),
        failures: row.get("failures"),
        crashes: row.get("crashes"),
    }
}

struct Both {
    old: Old,
    new: PostgresStore,
    clock: TestClock,
}

impl Both {
    async fn new() -> Self {
        let url = PostgresServer::shared().create_database().await;
        let clock = TestClock::new("2026-11-20T12:00:00Z".parse().expect("a moment"));
        let options = PostgresOptions { max_connections: 2, ..PostgresOptions::default() };
        let new = PostgresStore::connect_with_clock(&url, &options, clock.clone()).await.expect("a store");
        Self { old: Old::new(&url, Some(clock.clone())).await, new, clock }
    }

    async fn suspects(&self, worker: WorkerId, suspicion: Suspicion) -> Vec<TaskId> {
        let claim = Claim::Suspects { queues: vec![queue("q")], suspicion, limit: 10 };
        sorted_ids(&self.new.claim(worker, &claim).await.expect("claim"))
    }
}

#[tokio::test]
async fn both_versions_work_on_the_same_tasks() {
    let Both { mut old, new, .. } = Both::new().await;
    let (ours, theirs) = (worker(&new).await, old.register().await);
    let from_old = old.submit(6).await;
    let unique = Unique {
        key: UniqueKey::new("report").expect("a valid key"),
        among: Unique::UNFINISHED.to_vec(),
        window: None,
    };
    let named = submit_one(&new, NewTask { unique: Some(unique), ..task() }).await;
    let from_new = [vec![named], submit_many(&new, 5).await].concat();

    // Each takes what the other one submitted.
    for claimed in claim(&new, ours, &from_old).await {
        settled(&new, ours, success(&claimed, "1")).await;
    }
    let taken = old.claim_next(theirs, 10).await;
    assert_eq!(taken.iter().map(|task| TaskId(task.id)).collect::<Vec<_>>(), from_new);
    let bad = r#"{"code":"bad","message":"bad input","class":"permanent"}"#;
    assert_eq!(old.finish(theirs, &taken[..3], "COMPLETED", None).await, 3);
    assert_eq!(old.finish(theirs, &taken[3..], "FAILED", Some(bad)).await, 3);
    assert_eq!(old.finish(theirs, &taken, "COMPLETED", None).await, 0, "once");
    assert_eq!(read(&new, named).await.unique_key.map(|key| key.to_string()).as_deref(), Some("report"));

    // What failed there is grouped, run again and ended by either of them.
    let failed = from_new[3..].to_vec();
    let groups = new.failures(&Tenant::default(), 10).await.expect("failures");
    assert_eq!(
        groups.iter().map(|group| (group.code.as_str(), group.count)).collect::<Vec<_>>(),
        [("bad", 3)]
    );
    let again: Vec<_> = failed.iter().map(|id| Retry { id: *id, input: None }).collect();
    for outcome in new.retry(&Tenant::default(), &again).await.expect("retry") {
        assert!(matches!(outcome, RetryOutcome::Waiting(_, 1)), "{outcome:?}");
    }
    let taken = old.claim_next(theirs, 2).await;
    assert_eq!(taken.iter().map(|task| (task.attempt, task.failures)).collect::<Vec<_>>(), [(2, 1), (2, 1)]);
    assert_eq!(old.finish(theirs, &taken, "COMPLETED", None).await, 2);
    settled(&new, ours, success(&start(&new, ours, failed[2]).await, "1")).await;
    for id in failed {
        let attempts = new.attempts(&Tenant::default(), id).await.expect("attempts").expect("known");
        let outcomes: Vec<_> = attempts.iter().map(|attempt| attempt.outcome).collect();
        assert_eq!(outcomes, [Some(AttemptOutcome::Failed), Some(AttemptOutcome::Completed)]);
        assert!(attempts.iter().all(|attempt| attempt.worker.is_some()), "each knows its worker");
    }
    let waiting = submit_many(&new, 2).await;
    assert_eq!(old.cancel_waiting(&waiting).await, 2);
    assert_eq!(read(&new, waiting[0]).await.status, Status::Cancelled);
    let counts = new.counts(&Tenant::default()).await.expect("counts");
    assert_eq!(
        counts.iter().map(|line| (line.status, line.count)).collect::<Vec<_>>(),
        [(Status::Completed, 12), (Status::Cancelled, 2)]
    );
    assert_counts(&new, &Tenant::default()).await;
}

/// Either buries workers of the other, and takes over what they held.
#[tokio::test]
async fn crashes_are_taken_over_across_versions() {
    let mut both = Both::new().await;
    let (ours, theirs) = (worker(&both.new).await, both.old.register().await);
    let ids = submit_many(&both.new, 4).await;
    // A suspect and an innocent in one hand.
    let first = start(&both.new, ours, ids[0]).await;
    settled(&both.new, ours, by_event(&first, false, Event::LoseWorker { charged: true })).await;
    assert_eq!(both.suspects(ours, Suspicion::Shared).await, ids[..1]);
    start(&both.new, ours, ids[1]).await;
    let beat = both.clock.now();
    both.clock.advance(LEASE + SECOND);
    assert!(both.old.bury(ours, beat).await, "the first version knows nothing of how heavy they were");
    assert!(both.old.heartbeat(theirs).await);
    for orphan in both.new.orphans(10).await.expect("orphans") {
        assert_eq!((orphan.worker, orphan.heaviest), (ours, Suspicion::Shared), "{}", orphan.id);
    }
    let orphans = both.old.orphans().await;
    assert_eq!(orphans.len(), 2);
    let (_, innocent) = orphans.iter().find(|(_, task)| task.id == ids[1].0).expect("it is there");
    assert_eq!(both.old.lose(ours, &[*innocent]).await, 1);
    let left = both.new.orphans(10).await.expect("orphans");
    assert_eq!(left.iter().map(|orphan| orphan.id).collect::<Vec<_>>(), ids[..1]);

    // The other way round.
    let taken = both.old.claim_ids(theirs, &ids[2..]).await;
    assert_eq!(taken.len(), 2);
    both.clock.advance(LEASE + SECOND);
    bury(&both.new, theirs).await;
    assert!(!both.old.heartbeat(theirs).await, "it is told");
    assert!(both.old.claim_next(theirs, 5).await.is_empty(), "and gets nothing more");
    assert_eq!(both.old.finish(theirs, &taken[..1], "COMPLETED", None).await, 1, "what it had done is kept");
    let found = both.new.orphans(10).await.expect("orphans");
    let found: Vec<_> =
        found.iter().filter(|orphan| orphan.worker == theirs).map(|orphan| orphan.id).collect();
    assert_eq!(found, ids[3..]);
    assert_eq!(both.old.lose(theirs, &taken).await, 1);
    assert_counts(&both.new, &Tenant::default()).await;
}

#[tokio::test]
async fn suspects_of_either_version_are_run() {
    let mut both = Both::new().await;
    let (ours, theirs) = (worker(&both.new).await, both.old.register().await);
    let ids = submit_many(&both.new, 3).await;

    // The first version knows no lanes: what it charged with a crash waits among the others, and is run.
    let taken = both.old.claim_ids(theirs, &ids[..1]).await;
    assert_eq!(both.old.lose(theirs, &taken).await, 1);
    let again = start(&both.new, ours, ids[0]).await;
    assert_eq!((again.counters.attempt, again.counters.crashes), (2, 1));
    // From here on it waits apart: the first version does not find it by itself, and does not lose it either.
    settled(&both.new, ours, by_event(&again, false, Event::Release)).await;
    assert!(both.old.claim_next(theirs, 10).await.iter().all(|task| task.id != ids[0].0));
    assert_eq!(both.suspects(ours, Suspicion::Shared).await, ids[..1]);
    settled(&both.new, ours, by_event(&again_of(&again, 3), false, Event::Release)).await;
    // An order that the first version filled hands it out all the same.
    let taken = both.old.claim_ids(theirs, &ids[..1]).await;
    assert_eq!(taken.len(), 1);
    assert_eq!(both.old.finish(theirs, &taken, "COMPLETED", None).await, 1);
    assert_eq!(read(&both.new, ids[0]).await.status, Status::Completed);
    assert_counts(&both.new, &Tenant::default()).await;
}

/// The same task in a later attempt's hand.
fn again_of(claimed: &application::ports::ClaimedTask, attempt: u32) -> application::ports::ClaimedTask {
    let mut claimed = claimed.clone();
    claimed.counters.attempt = attempt;
    claimed
}

/// Replicas at work while the schema comes, and several that bring it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_first_version_works_on_through_the_migration() {
    const REPLICAS: usize = 3;
    const ROUNDS_AFTER: usize = 10;
    let url = PostgresServer::shared().create_empty_database().await;
    let directory = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations/postgres"));
    let migrator = Migrator::new(directory).await.expect("the migrations");
    let mut admin = PgConnection::connect(&url).await.expect("a connection");
    migrator.run_direct(Some(1), &mut admin, false).await.expect("the first schema");

    let (migrated, begun) = (CancellationToken::new(), Arc::new(tokio::sync::Barrier::new(REPLICAS + 1)));
    let replicas: Vec<_> = (0..REPLICAS)
        .map(|_| {
            let (url, migrated, begun) = (url.clone(), migrated.clone(), begun.clone());
            tokio::spawn(async move {
                let mut old = Old::new(&url, None).await;
                let worker = old.register().await;
                let (mut submitted, mut ended, mut rounds_after) = (Vec::new(), 0, 0);
                for round in 0.. {
                    if round == 1 {
                        begun.wait().await; // every statement has been prepared on the first schema
                    }
                    submitted.extend(old.submit(10).await);
                    let taken = old.claim_next(worker, 10).await;
                    let (done, lost) = taken.split_at(taken.len() * 2 / 3);
                    ended += old.finish(worker, done, "COMPLETED", None).await;
                    assert_eq!(old.lose(worker, lost).await, lost.len(), "it holds what it claimed");
                    assert!(old.heartbeat(worker).await);
                    old.promote().await;
                    old.orphans().await;
                    rounds_after += usize::from(migrated.is_cancelled());
                    if rounds_after > ROUNDS_AFTER {
                        break;
                    }
                }
                (submitted, ended)
            })
        })
        .collect();
    begun.wait().await;
    let migrations: Vec<_> = (0..4)
        .map(|_| {
            let url = url.clone();
            tokio::spawn(async move { PostgresStore::migrate(&url).await.expect("migrate") })
        })
        .collect();
    let mut steps = Vec::new();
    for migration in migrations {
        steps.push(migration.await.expect("no panic"));
    }
    steps.sort_unstable();
    let all = migrator.iter().count();
    assert_eq!(steps, [0, 0, 0, all - 1], "one of them did it");
    // The newer version joins while the first one is still there.
    let new =
        PostgresStore::connect(&url, &PostgresOptions::default()).await.expect("the schema is complete");
    migrated.cancel();
    let (mut submitted, mut ended) = (HashSet::new(), 0);
    for replica in replicas {
        let (of_one, by_one) = replica.await.expect("nothing was refused");
        submitted.extend(of_one);
        ended += by_one;
    }
    let ours = worker(&new).await;
    loop {
        let left = claim_next(&new, ours, &[("q", 500)], 500).await;
        if left.is_empty() {
            break;
        }
        ended += left.len();
        let failure_kind = Failure::permanent("bad", "bad input");
        let settlements: Vec<_> = left.iter().map(|task| failure(task, failure_kind.clone())).collect();
        new.settle(ours, &settlements).await.expect("settle");
    }
    let shown = everything(&new, &Tenant::default()).await;
    assert_eq!(shown.iter().map(|task| task.id).collect::<HashSet<_>>(), submitted, "none is lost");
    assert!(shown.iter().all(|task| task.status.is_terminal()), "all have ended");
    assert_eq!(ended, submitted.len(), "each once");
    assert_counts(&new, &Tenant::default()).await;
    let invalid: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_index WHERE NOT indisvalid")
        .fetch_one(&mut admin)
        .await
        .expect("the catalogue");
    assert_eq!(invalid, 0, "every index is complete");
}

/// An index whose building was cut off is no index: the next migration builds it anew.
#[tokio::test]
async fn an_index_that_was_left_unfinished_is_built_again() {
    let url = PostgresServer::shared().create_database().await;
    let mut admin = PgConnection::connect(&url).await.expect("a connection");
    sqlx::raw_sql(
        "DELETE FROM _sqlx_migrations WHERE version = 9;
         UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'outcome_failed'::regclass",
    )
    .execute(&mut admin)
    .await
    .expect("as after a crash");
    assert_eq!(PostgresStore::migrate(&url).await.expect("migrate"), 1);
    let valid: bool =
        sqlx::query_scalar("SELECT indisvalid FROM pg_index WHERE indexrelid = 'outcome_failed'::regclass")
            .fetch_one(&mut admin)
            .await
            .expect("the index");
    assert!(valid);
}

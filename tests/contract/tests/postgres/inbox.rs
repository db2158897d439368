//! Tasks that are submitted in SQL: they come and go with the caller's transaction, and are taken in once.

use std::{collections::HashSet, sync::Arc, time::Duration};

use application::ports::{Accepted, InboxStore, Letter, TakenIn, TaskStore};
use contract_tests::{fixtures::*, servers::PostgresServer};
use domain::{Failure, NewTask, Rank, Start, Status, TaskId, TaskType, Tenant};
use postgres_adapter::{PostgresOptions, PostgresStore};
use sqlx::{Connection, PgConnection};

const PATIENCE: Duration = Duration::from_secs(60);

async fn store_and_caller() -> (String, Arc<PostgresStore>, PgConnection) {
    let url = PostgresServer::shared().create_database().await;
    let store = PostgresStore::connect(&url, &PostgresOptions::default()).await.expect("a store");
    let caller = PgConnection::connect(&url).await.expect("a connection");
    (url, Arc::new(store), caller)
}

async fn submit_in_sql(caller: &mut PgConnection, call: &'static str) -> TaskId {
    TaskId(sqlx::query_scalar(call).fetch_one(caller).await.expect(call))
}

async fn letters(store: &PostgresStore) -> Vec<Letter> {
    let known = [TaskType::new("demo.noop").expect("a type")];
    store.letters(&known, PATIENCE, 500).await.expect("letters")
}

fn accepted(letter: &Letter) -> Accepted {
    let task = NewTask { task_type: letter.task_type.clone(), input: letter.input.clone(), ..task() };
    Accepted { id: letter.id, submitted_at: letter.submitted_at, task, refusal: None }
}

#[tokio::test]
async fn a_task_is_submitted_with_the_callers_transaction_or_not_at_all() {
    let (_, store, mut caller) = store_and_caller().await;
    let mut kept = caller.begin().await.expect("begin");
    let id =
        submit_in_sql(&mut kept, "SELECT submit_task('demo.noop', '{\"a\": 1}', '{\"priority\": 3}')").await;
    assert_eq!(letters(&store).await, [], "nothing is seen before the commit");
    kept.commit().await.expect("commit");
    let mut dropped = caller.begin().await.expect("begin");
    let never = submit_in_sql(&mut dropped, "SELECT submit_task('demo.noop')").await;
    dropped.rollback().await.expect("rollback");

    let found = letters(&store).await;
    assert_eq!(found.iter().map(|letter| letter.id).collect::<Vec<_>>(), [id]);
    assert_eq!((found[0].input.as_str(), found[0].options.as_str()), (r#"{"a": 1}"#, r#"{"priority": 3}"#));
    let accepted: Vec<_> = found.iter().map(accepted).collect();
    assert_eq!(store.take_in(&accepted).await, Ok(vec![TakenIn { id, run_at: None, rank: Rank(id.0) }]));
    assert_eq!(store.take_in(&accepted).await, Ok(vec![]), "it is taken in once");
    assert_eq!(letters(&store).await, []);
    let tasks = store.read(&Tenant::default(), &[id, never]).await.expect("read");
    assert_eq!(tasks.len(), 1);
    assert_eq!(
        (tasks[0].id, tasks[0].status, tasks[0].created_at),
        (id, Status::Pending, found[0].submitted_at)
    );
    let worker = worker(&*store).await;
    assert_eq!(sorted_ids(&claim(&*store, worker, &[id]).await), [id]);
}

#[tokio::test]
async fn refused_ones_fail_with_their_reason_and_later_ones_wait() {
    let (_, store, mut caller) = store_and_caller().await;
    let [bad, later] = [
        submit_in_sql(&mut caller, "SELECT submit_task('demo.noop', NULL)").await,
        submit_in_sql(&mut caller, "SELECT submit_task('demo.noop')").await,
    ];
    let mut accepted: Vec<_> = letters(&store).await.iter().map(accepted).collect();
    accepted[0].refusal = Some(Failure::permanent("invalid_submission", "input: it is null"));
    accepted[1].task.start = Start::After(SECOND);
    let taken = store.take_in(&accepted).await.expect("taken in");
    assert_eq!(taken.len(), 2);
    let tasks = store.read(&Tenant::default(), &[bad, later]).await.expect("read");
    assert_eq!((tasks[0].status, tasks[0].attempt), (Status::Failed, 0));
    let error = tasks[0].error.as_ref().expect("a reason");
    assert_eq!((error.code.as_str(), error.message.as_str()), ("invalid_submission", "input: it is null"));
    assert_eq!(tasks[1].status, Status::Scheduled);
    assert!(tasks[1].run_at.is_some());
    let groups = store.failures(&Tenant::default(), 5).await.expect("failures");
    assert_eq!(groups.len(), 1, "people find it among what failed: {groups:?}");
    assert_counts(&*store, &Tenant::default()).await;
}

#[tokio::test]
async fn what_nobody_knows_is_left_to_others_for_a_while() {
    let (_, store, mut caller) = store_and_caller().await;
    submit_in_sql(&mut caller, "SELECT submit_task('theirs.only')").await;
    let known = [TaskType::new("demo.noop").expect("a type")];
    assert_eq!(store.letters(&known, PATIENCE, 500).await, Ok(vec![]));
    assert_eq!(store.letters(&known, Duration::ZERO, 500).await.expect("letters").len(), 1);
}

#[tokio::test]
async fn what_could_not_be_a_task_fails_where_it_is_written() {
    let (_, _, mut caller) = store_and_caller().await;
    for call in [
        "SELECT submit_task('no spaces')",
        "SELECT submit_task('')",
        "SELECT submit_task('demo.noop', '{}', '{}', 'no tenant')",
        "SELECT submit_task('demo.noop', to_jsonb(repeat('x', 1100000)))",
        "SELECT submit_task(NULL)",
    ] {
        let error =
            sqlx::query_scalar::<_, i64>(call).fetch_one(&mut caller).await.expect_err(call).to_string();
        assert!(error.contains("inbox") || error.contains("task_type"), "{call}: {error}");
    }
}

#[tokio::test]
async fn many_processes_take_each_in_once_and_are_called_when_something_comes() {
    let (url, first, mut caller) = store_and_caller().await;
    first.knock().await; // it listens from here on
    let knock = tokio::spawn({
        let first = Arc::clone(&first);
        async move { first.knock().await }
    });
    let submitted: Vec<i64> =
        sqlx::query_scalar("SELECT submit_task('demo.noop') FROM generate_series(1, 400)")
            .fetch_all(&mut caller)
            .await
            .expect("submit");
    tokio::time::timeout(Duration::from_secs(30), knock).await.expect("it is called").expect("no panic");

    let mut takers = Vec::new();
    for _ in 0..4 {
        let store = PostgresStore::connect(&url, &PostgresOptions::default()).await.expect("a store");
        takers.push(tokio::spawn(async move {
            let all: Vec<_> = letters(&store).await.iter().map(accepted).collect();
            store.take_in(&all).await.expect("taken in")
        }));
    }
    let mut seen = HashSet::new();
    for taker in takers {
        for taken in taker.await.expect("no panic") {
            assert!(seen.insert(taken.id.0), "task {} was taken in twice", taken.id);
        }
    }
    assert_eq!(seen, submitted.into_iter().collect());
}

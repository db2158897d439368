//! What the statements cost: no verb reads a table from end to end, whatever the planner knows of it, and a claim
//! touches no index. Judged by what the server counted, not by what a plan promised.

use std::{sync::Arc, time::Duration};

use application::ports::{
    Applied, ChunkRecord, Claim, ClaimedTask, ListPage, ProgressRecord, Retry, RetryOutcome, Settlement,
    Store, Submitted, TaskFilter, TaskStore, WorkStore,
};
use contract_tests::{fixtures::*, servers::PostgresServer};
use domain::{
    Event, Failure, Idempotency, IdempotencyKey, NewTask, Progress, Status, Suspicion, TaskId, Tenant,
    Unique, UniqueKey,
    ai::{ModelCall, Operation, ProviderName, UsageGrouping},
};
use postgres_adapter::{PostgresOptions, PostgresStore, TestClock};
use sqlx::{Connection, PgConnection, Row};

/// Enough that reading them all would show.
const BACKLOG: usize = 20_000;
/// Tasks of one batch.
const BATCH: usize = 200;

struct Bench {
    url: String,
    clock: TestClock,
    admin: PgConnection,
}

impl Bench {
    /// A database in which nobody but the test gathers statistics.
    async fn new() -> Self {
        let url = PostgresServer::shared().create_database().await;
        let mut admin = PgConnection::connect(&url).await.expect("a connection");
        for table in [
            "task",
            "live",
            "outcome",
            "attempt",
            "claim_batch",
            "worker",
            "progress",
            "chunk",
            "tally_delta",
            "idempotency_key",
            "model_call",
            "usage_day",
        ] {
            let off = format!("ALTER TABLE {table} SET (autovacuum_enabled = false)");
            sqlx::raw_sql(sqlx::AssertSqlSafe(off)).execute(&mut admin).await.expect("no autovacuum");
        }
        let clock = TestClock::new("2026-11-20T12:00:00Z".parse().expect("a moment"));
        Self { url, clock, admin }
    }

    async fn store(&self) -> PostgresStore {
        let options = PostgresOptions { max_connections: 2, ..PostgresOptions::default() };
        PostgresStore::connect_with_clock(&self.url, &options, self.clock.clone()).await.expect("a store")
    }

    /// Waits until the sessions of a store that was dropped have ended, which makes their numbers known, and forgets
    /// nothing: the numbers only rise.
    async fn counted(&mut self, sql: &'static str) -> Vec<(String, i64, i64)> {
        let others = "SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
        let ended = async {
            while sqlx::query_scalar::<_, i64>(others).fetch_one(&mut self.admin).await.expect("activity") > 0
            {
            }
        };
        tokio::time::timeout(Duration::from_secs(30), ended).await.expect("the store's sessions end with it");
        let rows = sqlx::query(sql).fetch_all(&mut self.admin).await.expect("statistics");
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
    }
}

const READS: &str = "SELECT relname::text, seq_scan, coalesce(idx_tup_fetch, 0) FROM pg_stat_user_tables
    WHERE relname NOT IN ('tally_delta', '_sqlx_migrations') ORDER BY relname";

#[tokio::test]
async fn claims_touch_no_index() {
    let mut bench = Bench::new().await;
    let store = bench.store().await;
    let ids = submit_many(&store, 2_000).await;
    let worker = worker(&store).await;
    for batch in ids.chunks(100).take(10) {
        assert_eq!(claim(&store, worker, batch).await.len(), 100);
    }
    assert_eq!(claim_next(&store, worker, &[("q", 1_000)], 1_000).await.len(), 1_000);
    drop(store);
    assert_eq!(bench.counted(UPDATES).await, [("live".to_owned(), 2_000, 2_000)], "each update is heap-only");
}

const UPDATES: &str =
    "SELECT relname::text, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'live'";

#[tokio::test]
async fn claims_of_suspects_touch_no_index() {
    let mut bench = Bench::new().await;
    let store = bench.store().await;
    submit_many(&store, 1_000).await;
    let worker = worker(&store).await;
    let held = claim_next(&store, worker, &[("q", 1_000)], 1_000).await;
    let crashed: Vec<_> =
        held.iter().map(|task| by_event(task, false, Event::LoseWorker { charged: true })).collect();
    store.settle(worker, &crashed).await.expect("settle");
    drop(store);
    let before = bench.counted(UPDATES).await;
    sqlx::raw_sql("VACUUM").execute(&mut bench.admin).await.expect("vacuum");
    let store = bench.store().await;
    let suspects = Claim::Suspects { queues: vec![queue("q")], suspicion: Suspicion::Shared, limit: 1_000 };
    assert_eq!(store.claim(worker, &suspects).await.expect("claim").len(), 1_000);
    drop(store);
    let after = bench.counted(UPDATES).await;
    // Where a crash has put the row on a full page, its next version finds no room there: a few.
    let (all, heap_only) = (after[0].1 - before[0].1, after[0].2 - before[0].2);
    assert_eq!((all, heap_only > 900), (1_000, true), "claims are heap-only: {heap_only} of {all}");
}

#[tokio::test]
async fn no_verb_reads_a_whole_table_that_was_never_analysed() {
    let mut bench = Bench::new().await;
    let store = bench.store().await;
    let ids = submit_many(&store, BACKLOG).await;
    drop(store);
    use_every_verb(&mut bench, &ids).await;
}

#[tokio::test]
async fn no_verb_reads_a_whole_table_that_was_analysed_while_empty() {
    let mut bench = Bench::new().await;
    sqlx::raw_sql("VACUUM ANALYZE").execute(&mut bench.admin).await.expect("analyse");
    let store = bench.store().await;
    let ids = submit_many(&store, BACKLOG).await;
    drop(store);
    use_every_verb(&mut bench, &ids).await;
}

#[tokio::test]
async fn no_verb_reads_a_whole_table_that_was_analysed_while_all_waited() {
    let mut bench = Bench::new().await;
    let store = bench.store().await;
    let ids = submit_many(&store, BACKLOG).await;
    drop(store);
    sqlx::raw_sql("ANALYZE").execute(&mut bench.admin).await.expect("analyse");
    use_every_verb(&mut bench, &ids).await;
}

#[tokio::test]
async fn no_verb_reads_a_whole_table_that_was_analysed_while_all_ran() {
    let mut bench = Bench::new().await;
    let store = bench.store().await;
    let ids = submit_many(&store, BACKLOG).await;
    let worker = worker(&store).await;
    let held = claim(&store, worker, &ids).await;
    sqlx::raw_sql("ANALYZE").execute(&mut bench.admin).await.expect("analyse");
    let back: Vec<_> = held.iter().map(release).collect();
    store.settle(worker, &back).await.expect("settle");
    drop(store);
    sqlx::raw_sql("VACUUM").execute(&mut bench.admin).await.expect("vacuum");
    use_every_verb(&mut bench, &ids).await;
}

/// As it is for the first workers of an installation, which keep their plans until somebody analyses the tables.
#[tokio::test]
async fn no_verb_reads_a_whole_table_that_was_empty_when_its_plan_was_made() {
    let mut bench = Bench::new().await;
    let before = bench.counted(READS).await;
    let store = bench.store().await;
    every_verb_in_vain(&store).await;
    let ids = submit_many(&bench.store().await, BACKLOG).await;
    every_verb(&store, &bench.clock, &ids).await;
    drop(store);
    few_were_read(before, bench.counted(READS).await);
}

/// Makes all plans.
async fn every_verb_in_vain(store: &dyn Store) {
    let (tenant, worker) = (Tenant::default(), worker(store).await);
    let nobody = [TaskId(i64::MAX)];
    let page = ListPage { before: None, limit: 20 };
    let settle = |change| Settlement {
        task: nobody[0],
        attempt: 1,
        change,
        result: None,
        details: None,
        calls: Vec::new(),
        knew_of_cancel: false,
    };
    let counters = domain::Counters { attempt: 1, ..domain::Counters::default() };
    let end = domain::Change::Finish { end: domain::End::Completed, counters, error: None };
    let again = domain::Change::Wait {
        after: SECOND,
        counters,
        outcome: domain::AttemptOutcome::Released,
        error: None,
    };
    let called = [Settlement { calls: model_calls(), ..settle(end.clone()) }];
    let settlements = [settle(end), settle(again)];
    assert_eq!(store.claim(worker, &Claim::Ids(nobody.to_vec())).await.expect("claim").len(), 0);
    assert_eq!(claim_next(store, worker, &[("q", BATCH)], BATCH).await.len(), 0);
    let applied = store.settle(worker, &settlements).await.expect("settle");
    assert_eq!(applied, [Applied::Stale; 2]);
    assert_eq!(store.settle(worker, &called).await.expect("settle"), [Applied::Stale]);
    assert_eq!(store.promote(BATCH).await.expect("promote").len(), 0);
    assert_eq!(store.expire(BATCH).await.expect("expire").len(), 0);
    assert_eq!(store.next_due().await.expect("next_due"), None);
    store.cancel(&tenant, &nobody).await.expect("cancel");
    assert_eq!(store.cancel_requests(worker).await.expect("requests").len(), 0);
    store.delete(&tenant, &nobody).await.expect("delete");
    let note = ProgressRecord { task: nobody[0], attempt: 1, progress: Progress::new(1, 2, None) };
    let chunk = ChunkRecord { task: nobody[0], attempt: 1, seq: 1, text: "a".into() };
    store.record(worker, &[note], &[chunk]).await.expect("record");
    assert_eq!(store.chunks_after(nobody[0], (0, 0), 10).await.expect("chunks").len(), 0);
    assert_eq!(store.read(&tenant, &nobody).await.expect("read").len(), 0);
    assert_eq!(store.attempts(&tenant, nobody[0]).await.expect("attempts"), None);
    assert_eq!(calls_in_usage(store).await, 0);
    for statuses in [vec![], vec![Status::Pending], vec![Status::Completed], vec![Status::Expired]] {
        let filter = TaskFilter { statuses, ..TaskFilter::default() };
        assert_eq!(store.list(&tenant, &filter, page).await.expect("list").len(), 0);
    }
    assert_eq!(store.waiting(&queue("q"), BATCH).await.expect("waiting").len(), 0);
    assert_eq!(store.waiting_queues(&[]).await.expect("queues").len(), 0);
    assert!(store.heartbeat(worker).await.expect("heartbeat"));
    assert_eq!(store.orphans(BATCH).await.expect("orphans").len(), 0);
}

fn model_calls() -> Vec<ModelCall> {
    vec![ModelCall::new(Operation::Chat, ProviderName::new("main").expect("a name"), "m")]
}

/// However it is grouped.
async fn calls_in_usage(store: &dyn Store) -> u64 {
    let today = store.ping().await.expect("ping").now.date_naive();
    let mut sums = Vec::new();
    for grouping in UsageGrouping::ALL {
        let groups = store.usage(&Tenant::default(), (today, today), grouping, 10).await.expect("usage");
        sums.push(groups.iter().map(|group| group.spending.calls).sum::<u64>());
    }
    sums.dedup();
    assert_eq!(sums.len(), 1, "{sums:?}");
    sums[0]
}

/// A few batches of everything, on a store of its own so that all plans are made now; then looks at what was read.
async fn use_every_verb(bench: &mut Bench, ids: &[TaskId]) {
    let before = bench.counted(READS).await;
    let store = Arc::new(bench.store().await);
    every_verb(&*store, &bench.clock, ids).await;
    drop(store);
    few_were_read(before, bench.counted(READS).await);
}

/// By name of the table: scans from end to end, and rows found through an index.
fn few_were_read(before: Vec<(String, i64, i64)>, after: Vec<(String, i64, i64)>) {
    for ((table, scans_before, rows_before), (_, scans, rows)) in before.into_iter().zip(after) {
        assert_eq!(scans, scans_before, "{table} was read from end to end");
        // Nine batches, each of which touches a row several times (find, lock, change, check).
        let (most, read) = ((BATCH * 9 * 8) as i64, rows - rows_before);
        assert!(read < most, "{read} rows of {table} were read, more than {most}");
    }
}

async fn every_verb(store: &dyn Store, clock: &TestClock, ids: &[TaskId]) {
    let tenant = Tenant::default();
    let (worker, other) = (worker(store).await, worker(store).await);
    let batch = |n: usize| &ids[ids.len() / 2 + n * BATCH..][..BATCH];
    let take = async |n: usize| store.claim(worker, &Claim::Ids(batch(n).to_vec())).await.expect("claim");

    let with_calls = |settlement| Settlement { calls: model_calls(), ..settlement };
    let finished: Vec<_> = take(0).await.iter().map(|task| with_calls(success(task, "1"))).collect();
    store.settle(worker, &finished).await.expect("settle");
    store.settle(worker, &finished).await.expect("settle again");
    let retried: Vec<_> = take(1).await.iter().map(|task| with_calls(retry(task, SECOND))).collect();
    store.settle(worker, &retried).await.expect("settle");
    clock.advance(2 * SECOND);
    assert_eq!(store.promote(BATCH).await.expect("promote").len(), BATCH);
    let next = claim_next(store, worker, &[("q", BATCH)], BATCH).await;
    let released: Vec<Settlement> = next.iter().map(release).collect();
    store.settle(worker, &released).await.expect("settle");

    let expires_at = Some(clock.now() + SECOND);
    submit(store, &vec![NewTask { expires_at, ..task() }; BATCH]).await;
    clock.advance(2 * SECOND);
    assert_eq!(store.expire(BATCH).await.expect("expire").len(), BATCH);
    assert_eq!(store.next_due().await.expect("next_due"), None);

    let held = store.claim(other, &Claim::Ids(batch(2).to_vec())).await.expect("claim");
    store.cancel(&tenant, &[batch(2), batch(3)].concat()).await.expect("cancel");
    assert_eq!(store.cancel_requests(other).await.expect("requests").len(), BATCH);
    store.delete(&tenant, batch(3)).await.expect("delete");
    let note = |task: &ClaimedTask| ProgressRecord {
        task: task.id,
        attempt: task.counters.attempt,
        progress: Progress::new(1, 2, None),
    };
    let chunk = |task: &ClaimedTask| ChunkRecord {
        task: task.id,
        attempt: task.counters.attempt,
        seq: 1,
        text: "a".into(),
    };
    let notes: Vec<_> = held.iter().map(note).collect();
    let chunks: Vec<_> = held.iter().map(chunk).collect();
    store.record(other, &notes, &chunks).await.expect("record");
    assert_eq!(store.chunks_after(batch(2)[0], (0, 0), 10).await.expect("chunks").len(), 1);

    assert_eq!(store.read(&tenant, batch(4)).await.expect("read").len(), BATCH);
    store.attempts(&tenant, batch(1)[0]).await.expect("attempts").expect("known");
    assert_eq!(calls_in_usage(store).await, 2 * BATCH as u64);
    for statuses in [
        vec![],
        vec![Status::Pending],
        vec![Status::Completed],
        vec![Status::Expired],
        vec![Status::Pending, Status::Expired],
    ] {
        let filter = TaskFilter { statuses, ..TaskFilter::default() };
        let page = ListPage { before: None, limit: 20 };
        assert_eq!(store.list(&tenant, &filter, page).await.expect("list").len(), 20);
    }
    assert_eq!(store.waiting(&queue("q"), BATCH).await.expect("waiting").len(), BATCH);
    assert_eq!(store.waiting_queues(&[]).await.expect("queues"), [queue("q")]);

    assert_eq!(store.waiting_since(&[queue("q")]).await.expect("since").len(), 1);
    assert_eq!(store.age(&queue("q"), 3_600 * SECOND, BATCH).await.expect("age").len(), 0);
    store.reprioritise(&tenant, batch(5), priority(1)).await.expect("reprioritise");
    store.purge(&tenant, &queue("elsewhere"), batch(6)[0], BATCH).await.expect("purge");

    store.heartbeat(worker).await.expect("heartbeat");
    store.retire(worker).await.expect("retire");
    clock.advance(2 * LEASE);
    bury(store, other).await;
    let orphans = store.orphans(BATCH).await.expect("orphans");
    assert_eq!(orphans.len(), BATCH);
}

/// Tasks that were submitted with keys, all with the same unique one; most have completed, some failed, some crashed.
async fn history_with_keys(store: &PostgresStore) -> Vec<TaskId> {
    let mut ids = Vec::new();
    let worker = worker(store).await;
    for batch in 0..HISTORY / 1_000 {
        let batch: Vec<_> =
            (0..1_000).map(|n| keyed(batch * 1_000 + n, &[Status::Scheduled], "same")).collect();
        ids.extend(submit(store, &batch).await);
    }
    for (n, batch) in ids.chunks(1_000).enumerate() {
        let event = |place: usize, task: &ClaimedTask| match (n, place) {
            (0, 0..BATCH) => by_event(task, false, Event::LoseWorker { charged: true }),
            (1, 0..BATCH) => failure(task, Failure::permanent("bad", "bad input")),
            _ => success(task, "1"),
        };
        let held = claim(store, worker, batch).await;
        let settlements: Vec<_> = held.iter().enumerate().map(|(place, task)| event(place, task)).collect();
        store.settle(worker, &settlements).await.expect("settle");
    }
    ids
}

fn keyed(n: usize, among: &[Status], unique: &str) -> NewTask {
    let key = IdempotencyKey::new(format!("request-{n}")).expect("a valid key");
    let unique = UniqueKey::new(unique).expect("a valid key");
    NewTask {
        idempotency: Some(Idempotency { key, fingerprint: [1; 32] }),
        unique: Some(Unique { key: unique, among: among.to_vec(), window: None }),
        ..task()
    }
}

/// How many tasks there were before.
const HISTORY: usize = 10_000;

#[tokio::test]
async fn no_verb_reads_a_long_history_that_was_never_analysed() {
    let mut bench = Bench::new().await;
    let store = bench.store().await;
    let ids = history_with_keys(&store).await;
    drop(store);
    use_what_needs_people(&mut bench, &ids).await;
}

#[tokio::test]
async fn no_verb_reads_a_long_history_that_was_analysed() {
    let mut bench = Bench::new().await;
    let store = bench.store().await;
    let ids = history_with_keys(&store).await;
    drop(store);
    sqlx::raw_sql("VACUUM ANALYZE").execute(&mut bench.admin).await.expect("analyse");
    use_what_needs_people(&mut bench, &ids).await;
}

async fn use_what_needs_people(bench: &mut Bench, ids: &[TaskId]) {
    let tenant = Tenant::default();
    let before = bench.counted(READS).await;
    let store = bench.store().await;
    // Keys: asked again, in the way of others, forgotten.
    let again: Vec<_> = (0..BATCH).map(|n| keyed(n, &[Status::Scheduled], "same")).collect();
    for outcome in store.submit(&again).await.expect("submit") {
        assert!(matches!(outcome, Submitted::Replayed(_)), "{outcome:?}");
    }
    // Those that crashed wait, and are in the way; so are those that completed, the last of them first.
    for (n, among, other) in [
        (0, vec![Status::Pending], ids[BATCH - 1]),
        (1, vec![Status::Completed, Status::Failed], ids[ids.len() - 1]),
        (2, Status::ALL.to_vec(), ids[ids.len() - 1]),
    ] {
        let outcomes = store.submit(&[keyed(HISTORY + n, &among, "same")]).await.expect("submit");
        assert_eq!(outcomes, [Submitted::Existing(other)], "{among:?}");
    }
    let outcomes = store.submit(&[keyed(HISTORY, &[Status::Processing], "same")]).await.expect("submit");
    assert!(matches!(outcomes[..], [Submitted::New(_)]), "{outcomes:?}");

    let worker = worker(&store).await;
    let suspects = Claim::Suspects { queues: vec![queue("q")], suspicion: Suspicion::Shared, limit: BATCH };
    let held = store.claim(worker, &suspects).await.expect("claim");
    assert_eq!(sorted_ids(&held), ids[..BATCH]);
    bench.clock.advance(held[0].limits.time_limit + SECOND);
    let late =
        application::ports::UpkeepStore::overrunning(&store, SECOND / 2, BATCH).await.expect("overrunning");
    assert_eq!(late.len(), BATCH);
    let released: Vec<_> = held.iter().map(release).collect();
    store.settle(worker, &released).await.expect("settle");

    let failed = &ids[1_000..][..BATCH];
    let groups = store.failures(&tenant, 5).await.expect("failures");
    assert_eq!(groups.iter().map(|group| group.count).collect::<Vec<_>>(), [BATCH as u64]);
    let filter = TaskFilter {
        statuses: vec![Status::Failed],
        error_code: Some("bad".into()),
        ended_before: Some(bench.clock.now()),
        ..TaskFilter::default()
    };
    let page = ListPage { before: None, limit: 20 };
    assert_eq!(store.list(&tenant, &filter, page).await.expect("list").len(), 20);
    let part = BATCH / 4;
    let retries: Vec<_> =
        failed[..part].iter().map(|id| Retry { id: *id, input: Some(json("{}")) }).collect();
    for outcome in store.retry(&tenant, &retries).await.expect("retry") {
        assert!(matches!(outcome, RetryOutcome::Waiting(..)), "{outcome:?}");
    }
    store.discard(&tenant, &failed[part..2 * part]).await.expect("discard");
    bench.clock.advance(Idempotency::KEPT);
    let upkeep: &dyn application::ports::UpkeepStore = &store;
    assert_eq!(upkeep.discard_failed(SECOND, part).await.expect("discard"), part);
    assert_eq!(upkeep.forget_keys(BATCH).await.expect("forget"), BATCH);
    drop(store);
    let after = bench.counted(READS).await;
    for ((table, scans_before, rows_before), (_, scans, rows)) in before.into_iter().zip(after) {
        assert_eq!(scans, scans_before, "{table} was read from end to end");
        let (most, read) = ((BATCH * 16) as i64, rows - rows_before);
        assert!(read < most, "{read} rows of {table} were read, more than {most}");
    }
}

/// What a plan reads and how, without what differs between versions of the server: numbers of parameters, and whose
/// result an initial plan is.
fn steps(plan: &str) -> String {
    let is_step =
        |line: &&str| line.contains("->  ") || line.contains("Index Cond: ") || !line.starts_with(' ');
    let step = |line: &str| {
        let indent = line.len() - line.trim_start().len();
        let text = line.trim_start().trim_start_matches("->  ");
        let text: String = text.chars().map(|c| if c.is_ascii_digit() { '#' } else { c }).collect();
        format!("{:indent$}{text}\n", "")
    };
    plan.lines().filter(is_step).map(step).collect()
}

/// A change here is a change of what every task costs: look at `EXPLAIN (ANALYZE, BUFFERS)` and run `cargo xtask bench
/// P2 P3` before you accept it.
#[tokio::test]
async fn claims_and_settlements_keep_their_plans() {
    let store = Bench::new().await.store().await;
    for (name, plan) in store.plans().await.expect("plans") {
        let expected = match name {
            "claim_ids" => include_str!("plans/claim_ids.txt"),
            "claim_next" => include_str!("plans/claim_next.txt"),
            "complete" => include_str!("plans/complete.txt"),
            "finish" => include_str!("plans/finish.txt"),
            other => panic!("no plan is kept for {other}"),
        };
        assert_eq!(steps(&plan), expected, "the plan of {name} is now:\n{plan}");
    }
}

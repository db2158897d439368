//! How SQLite means to run each statement of this crate, in three states of its statistics: a plan that walks through
//! a table, or through a batch once per row, is fast in every small test and stops a big installation.

use std::collections::HashSet;

use sqlx::{ConnectOptions, Row, SqliteConnection, sqlite::SqliteConnectOptions};

/// Every source of this crate but this one: its path and its text.
fn sources() -> Vec<(String, String)> {
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/src")).expect("the sources");
    let paths = files.map(|file| file.expect("a source").path()).filter(|path| !path.ends_with("plans.rs"));
    let read = |path: &std::path::Path| std::fs::read_to_string(path).expect("a text");
    paths.map(|path| (path.display().to_string(), read(&path))).collect()
}

/// Every `const …: &str = "…"` of a source.
fn statements(source: &str) -> impl Iterator<Item = &str> {
    source.split(": &str =").skip(1).filter_map(|rest| rest.split('"').nth(1))
}

/// One step of a plan: its parent, and what is done.
async fn plan(conn: &mut SqliteConnection, sql: &str) -> Vec<(i64, String)> {
    let explain = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
    let rows = sqlx::query(explain).fetch_all(conn).await.unwrap_or_else(|error| panic!("{error}: {sql}"));
    rows.iter().map(|row| (row.get("parent"), row.get("detail"))).collect()
}

/// Big tables are searched, never walked through; a batch is the outermost loop.
fn faults(steps: &[(i64, String)]) -> Vec<String> {
    let mut searched = HashSet::new();
    let mut faults = Vec::new();
    for (parent, step) in steps {
        let words: Vec<&str> = step.split(' ').collect();
        match words[0] {
            "SCAN" if step.contains("VIRTUAL TABLE") && searched.contains(parent) => {
                faults.push(format!("{step}: once per row"));
            }
            // Short by themselves: who is alive, what is held, the first of those that wait for a moment.
            "SCAN" if step.contains("VIRTUAL TABLE") => {}
            "SCAN"
                if ["worker_alive", "live_held", "live_due", "ended_need"]
                    .iter()
                    .any(|index| step.contains(index)) => {}
            // One row per queue, one per table, and one.
            "SCAN" if ["queue_state", "sqlite_master", "retention_walk"].contains(&words[1]) => {}
            // What the statement itself has found so far.
            "SCAN" if ["waiting", "found", "CONSTANT"].contains(&words[1]) => {}
            "SCAN" => faults.push(step.clone()),
            "SEARCH" => {
                searched.insert(*parent);
            }
            _ => {}
        }
    }
    faults
}

#[tokio::test]
async fn every_statement_finds_its_rows_whatever_the_statistics_say() {
    let mut conn = SqliteConnectOptions::new().in_memory(true).connect().await.expect("it opens");
    sqlx::migrate!("../../migrations/sqlite").run(&mut conn).await.expect("migrated");
    let fill = "
        INSERT INTO worker (name, queues, concurrency, lease, state, registered_at, last_heartbeat)
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
        SELECT 'w', '[]', 1, 1, iif(i > 3, 'dead', 'alive'), 0, 0 FROM n;
        INSERT INTO task (tenant, type, queue, priority, input, max_attempts, time_limit, created_at)
        WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000)
        SELECT 'default', 't', 'q', 5, '{}', 1, 1, 0 FROM n;
        INSERT INTO live (task, tenant, queue, priority, state) SELECT id, tenant, queue, priority, 'PENDING' FROM task;
        ANALYZE";
    let run = "UPDATE live SET state = 'PROCESSING', worker = 1, attempt = 1, started_at = 0; ANALYZE";
    let states = [("never analysed", "SELECT 1"), ("all waiting", fill), ("all running", run)];
    let sources = sources();
    for (state, change) in states {
        sqlx::raw_sql(change).execute(&mut conn).await.expect(state);
        let mut checked = 0;
        for (file, source) in &sources {
            // A registration's plan shows what SQLite would do if references to the new row were already there, which
            // it only looks for in a transaction that has broken one.
            for sql in statements(source).filter(|sql| !sql.contains("INSERT INTO worker")) {
                let steps = plan(&mut conn, sql).await;
                assert_eq!(faults(&steps), [""; 0], "{file}, {state}: {steps:#?}\n{sql}");
                checked += 1;
            }
        }
        assert!(checked > 35, "only {checked} statements found: has their form changed?");
    }
}

#[test]
fn bad_plans_are_noticed() {
    let step = |parent, text: &str| (parent, text.to_owned());
    let nested = [
        step(0, "SEARCH live USING INDEX live_held (worker=?)"),
        step(0, "SCAN json_each VIRTUAL TABLE INDEX 1:"),
    ];
    assert_eq!(faults(&nested).len(), 1);
    assert_eq!(faults(&[step(0, "SCAN live")]), ["SCAN live"]);
    assert!(faults(&[nested[1].clone(), nested[0].clone()]).is_empty());
}

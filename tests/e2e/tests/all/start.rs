//! Starting, and what is said when that cannot be.

use std::path::Path;

use contract_tests::servers::{PostgresServer, RedisServer};
use e2e_tests::{Base, Product, Program, api, product::free_port, program};
use serde_json::json;

fn environment(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

/// Runs a binary that is to fail; what it said.
async fn fails(binary: &str, arguments: &[&str], settings: &[(&str, &str)], folder: &Path) -> String {
    let output = program::run_binary(binary, arguments, &environment(settings), folder).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{binary} {arguments:?}: {said}");
    said
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

#[tokio::test]
async fn the_separate_binaries_refuse_a_sqlite_url() {
    let folder = folder();
    for binary in ["task-runner-api", "task-runner-worker"] {
        for settings in [vec![], vec![("DATABASE_URL", "sqlite://tasks.db")]] {
            let said = fails(binary, &[], &settings, folder.path()).await;
            assert!(said.contains("SQLite") && said.contains("postgres://"), "{binary}: {said}");
        }
    }
    assert!(!folder.path().join("tasks.db").exists());
}

#[tokio::test]
async fn migrations_may_run_again_and_at_the_same_time() {
    let folder = folder();
    let database = PostgresServer::shared().create_empty_database().await;
    let settings = environment(&[("DATABASE_URL", &database)]);
    let migrations = (0..4).map(|_| program::run(&["migrate"], &settings, folder.path()));
    let outputs = futures_util::future::join_all(migrations).await;
    for output in &outputs {
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
    }
    let printed: Vec<_> = outputs.iter().map(|output| String::from_utf8_lossy(&output.stdout)).collect();
    let worked = printed.iter().filter(|text| text.contains("later")).count();
    assert_eq!(worked, 1, "one of them does the work: {printed:?}");
    let again = program::run(&["migrate"], &settings, folder.path()).await;
    assert!(again.status.success());
    assert_eq!(String::from_utf8_lossy(&again.stdout), "the schema was up to date\n");
    let said = fails("task-runner", &["migrate"], &[("DATABASE_URL", "sqlite://x.db")], folder.path()).await;
    assert!(said.contains("SQLite"), "{said}");
}

#[tokio::test]
async fn without_the_schema_api_and_worker_say_what_to_run() {
    let folder = folder();
    let database = PostgresServer::shared().create_empty_database().await;
    let listen = format!("127.0.0.1:{}", free_port());
    for binary in ["task-runner-api", "task-runner-worker"] {
        let settings =
            [("DATABASE_URL", &*database), ("REDIS_URL", RedisServer::shared().url()), ("LISTEN", &*listen)];
        let said = fails(binary, &[], &settings, folder.path()).await;
        assert!(said.contains("task-runner migrate"), "{binary}: {said}");
    }
}

#[tokio::test]
async fn mistakes_in_the_configuration_are_named() {
    let folder = folder();
    for (key, value, expected) in [
        ("DATABASE_URL", "mysql://me:hush@db/x", "starts with neither postgres:// nor sqlite://"),
        ("LISTEN", "everywhere", "127.0.0.1:8000"),
        ("WORKER_CONCURRENCY", "0", "not between 1 and"),
        ("SIMULATED_LATENCY", "soon", "SIMULATED_LATENCY"),
        ("LEASE_SECONDS", "0.1", "not between 1 and 3600"),
        ("RUST_LOG", "task_runner=loud=very", "RUST_LOG"),
    ] {
        let said = fails("task-runner", &[], &[(key, value)], folder.path()).await;
        assert!(said.contains(expected), "{key} = {value}: {said}");
        assert!(!said.contains("hush"), "a password shows: {said}");
    }
    std::fs::write(folder.path().join("task-runner.toml"), "worker_cuncurrency = 3\n").expect("written");
    let said = fails("task-runner", &[], &[], folder.path()).await;
    assert!(said.contains("worker_cuncurrency") && said.contains("worker_concurrency"), "{said}");
}

#[tokio::test]
async fn a_file_of_sqlite_belongs_to_one_process() {
    let product = Base::Sqlite.start().await;
    let listen = format!("127.0.0.1:{}", free_port());
    let settings = [("DATABASE_URL", "sqlite://tasks.db"), ("LISTEN", &*listen)];
    let said = fails("task-runner", &[], &settings, product.folder.path()).await;
    assert!(said.contains("in use by another process") && said.contains("tasks.db"), "{said}");
}

#[tokio::test]
async fn an_address_that_is_taken_is_named() {
    let product = Base::Sqlite.start().await;
    let taken = product.api().server.replace("http://", "");
    let folder = folder();
    let said = fails("task-runner", &[], &[("LISTEN", &taken)], folder.path()).await;
    assert!(said.contains(&taken) && said.contains("LISTEN"), "{said}");
}

#[tokio::test]
async fn standalone_runs_on_postgresql_and_migrates_it_by_itself() {
    let folder = folder();
    let database = PostgresServer::shared().create_empty_database().await;
    // The old spelling, and no Redis at all.
    let database = database.replacen("postgres://", "postgresql+asyncpg://", 1);
    let listen = format!("127.0.0.1:{}", free_port());
    let settings = [("DATABASE_URL", &*database), ("LISTEN", &*listen), ("SIMULATED_LATENCY", "0s")];
    let mut process = Program::start("task-runner", &[], &environment(&settings), folder.path());
    process.writes("worker ready").await;
    let client =
        e2e_tests::Api::new(listen.rsplit(':').next().and_then(|port| port.parse().ok()).expect("a port"));
    client.health_becomes("healthy").await;
    let id = api::id(&client.submit(json!({ "prompt": "Hi" })).await);
    client.completed(id).await;
}

#[tokio::test]
async fn the_start_says_where_everything_is() {
    let product: Product = Base::Sqlite.start().await;
    let api = product.api();
    let log = product.front.log();
    for line in [
        format!("{}/api/v1", api.server),
        format!("{}/docs", api.server),
        product.folder.path().join("tasks.db").display().to_string(),
        "simulated".to_owned(),
        format!("curl -d '{{\"prompt\":\"Explain quantum computing\"}}' {}/api/v1/tasks", api.server),
        "demo.simple_calculation".to_owned(),
    ] {
        assert!(log.contains(&line), "{line:?} is missing: {log}");
    }
    assert!(!log.contains('\u{1b}'), "colours in a file: {log}");
}

#[tokio::test]
async fn logs_can_be_json_lines() {
    let mut product = Base::Sqlite.setup().set("LOG_FORMAT", "json").start().await;
    let api = product.api();
    let id =
        api.submit_type("demo.simple_calculation", json!({ "x": 1, "y": 0, "operation": "divide" })).await;
    api.ended(id).await;
    product.front.writes("division_by_zero").await;
    let log = product.front.log();
    let lines: Vec<serde_json::Value> = log
        .lines()
        .filter(|line| line.starts_with('{'))
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let ended =
        lines.iter().find(|line| line["message"].as_str().is_some_and(|text| text.starts_with("task ended")));
    let ended = ended.unwrap_or_else(|| panic!("no line about the end: {log}"));
    assert_eq!(
        (&ended["task_id"], &ended["attempt"], &ended["level"]),
        (&json!(id), &json!(1), &json!("WARN"))
    );
    assert!(ended["seconds"].is_f64(), "{ended}");
}

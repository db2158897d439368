//! The command line's client side: what it prints, and how it ends.

use std::process::Output;

use e2e_tests::{Base, Product, api, on_both_bases, product::free_port, program};
use serde_json::{Value, json};

on_both_bases!(
    submit_prints_the_id_or_waits_for_the_result,
    watch_shows_the_text_and_ends_as_the_task_did,
    smoke_says_how_each_part_went,
);

async fn command(product: &Product, arguments: &[&str]) -> Output {
    let url = [("TASK_RUNNER_URL".to_owned(), product.api().server)];
    program::run(arguments, &url, product.folder.path()).await
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim_end().to_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn submit_prints_the_id_or_waits_for_the_result(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let output = command(&product, &["submit", "Explain quantum computing"]).await;
    assert!(output.status.success(), "{}", err(&output));
    assert_eq!(out(&output), "1", "the id alone, for scripts");
    let text = api.completed(1).await["result"].as_str().expect("a text").to_owned();
    assert!(text.contains("Explain quantum computing"), "{text}");

    let output = command(&product, &["submit", "--wait", "Explain quantum computing"]).await;
    assert!(output.status.success(), "{}", err(&output));
    assert_eq!(out(&output), api.task(2).await["result"].as_str().expect("a text"));

    let divide = r#"{"x":1,"y":0,"operation":"divide"}"#;
    let arguments = ["submit", "--wait", "--type", "demo.simple_calculation", "--input", divide];
    let output = command(&product, &arguments).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("FAILED") && err(&output).contains("divide 1 by zero"), "{}", err(&output));

    let output = command(&product, &["submit", "--type", "demo.nothing"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("type:") && err(&output).contains("demo.nothing"), "{}", err(&output));

    let arguments = ["submit", "--type", "demo.noop", "--delay=1h", "--priority=2", "--queue=reports"];
    let output = command(&product, &arguments).await;
    let task = api.task(out(&output).parse().expect("an id")).await;
    assert_eq!(
        (&task["status"], &task["priority"], &task["queue"]),
        (&json!("SCHEDULED"), &json!(2), &json!("reports"))
    );
    let output = command(&product, &["submit", "--wait=300ms", "--type", "demo.noop", "--delay=1h"]).await;
    assert_eq!(output.status.code(), Some(1), "a wait that was too short is no success");
    assert!(err(&output).contains("SCHEDULED"), "{}", err(&output));
}

async fn watch_shows_the_text_and_ends_as_the_task_did(base: Base) {
    let product = base.setup().set("SIMULATED_LATENCY", "1s").start().await;
    let api = product.api();
    let id = api::id(&api.submit(json!({ "prompt": "Explain quantum computing" })).await);
    let output = command(&product, &["watch", &id.to_string()]).await;
    assert!(output.status.success(), "{}", err(&output));
    assert_eq!(out(&output), api.task(id).await["result"].as_str().expect("a text").trim_end());

    let id =
        api.submit_type("demo.simple_calculation", json!({ "x": 10, "y": 20, "operation": "add" })).await;
    let output = command(&product, &["watch", &id.to_string()]).await;
    assert_eq!((output.status.code(), out(&output).as_str()), (Some(0), "30"));

    let id =
        api.submit_type("demo.simple_calculation", json!({ "x": 1, "y": 0, "operation": "divide" })).await;
    let output = command(&product, &["watch", &id.to_string()]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("FAILED"), "{}", err(&output));

    let output = command(&product, &["watch", "4711"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(err(&output).contains("404") && err(&output).contains("4711"), "{}", err(&output));
}

async fn smoke_says_how_each_part_went(base: Base) {
    let product = base.start().await;
    let output = command(&product, &["smoke", "--timeout=20s"]).await;
    let printed = out(&output);
    assert!(output.status.success(), "{printed}\n{}", err(&output));
    for part in ["ok     health", "ok     calculation", "10 + 20 = 30", "ok     text", "everything works"] {
        assert!(printed.contains(part), "{part:?} is missing: {printed}");
    }
    // Nobody runs the tasks of this one.
    let idle = base.setup().set("WORKER_QUEUES", "nobody").start().await;
    let output = command(&idle, &["smoke", "--timeout=300ms"]).await;
    let printed = out(&output);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    for part in ["ok     health", "FAILED calculation", "FAILED text", "PENDING", "something is wrong"] {
        assert!(printed.contains(part), "{part:?} is missing: {printed}");
    }
}

#[tokio::test]
async fn an_unreachable_server_is_named_and_is_a_failure() {
    let folder = tempfile::tempdir().expect("a folder");
    let server = format!("http://127.0.0.1:{}", free_port());
    for arguments in [vec!["submit", "Hi"], vec!["submit", "--wait", "Hi"], vec!["watch", "1"], vec!["smoke"]]
    {
        let arguments: Vec<_> = arguments.into_iter().chain(["--url", &server]).collect();
        let output = program::run(&arguments, &[], folder.path()).await;
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let said = out(&output) + &err(&output);
        assert!(
            said.contains(&server) && said.contains("cannot be reached; start a server"),
            "{arguments:?}: {said}"
        );
    }
}

#[tokio::test]
async fn a_command_ends_without_a_word_where_nobody_reads_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = program::command("task-runner", &["config"], &[], folder.path());
    let output = command.stdout(writer).stderr(std::process::Stdio::piped()).output().expect("it ran");
    assert_eq!((output.status.code(), err(&output).as_str()), (Some(141), ""));
}

#[tokio::test]
async fn config_shows_every_key_with_its_source_and_no_secrets() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join(".env"), "OPENAI_API_KEY=sk-from-dot-env\nLISTEN=127.0.0.1:1\n")
        .expect("written");
    std::fs::write(folder.path().join("task-runner.toml"), "worker_concurrency = 7\n").expect("written");
    let environment = [
        ("LISTEN".to_owned(), "127.0.0.1:2".to_owned()),
        ("DATABASE_URL".to_owned(), "postgresql+asyncpg://me:hush@db/tasks".to_owned()),
    ];
    let output = program::run(&["config", "--loglevel=warn"], &environment, folder.path()).await;
    let printed = out(&output);
    assert!(output.status.success(), "{}", err(&output));
    for line in [
        "worker_concurrency = \"7\"",
        "listen = \"127.0.0.1:2\"",
        "rust_log = \"warn\"",
        "(task-runner.toml)",
        "(the environment)",
        "(the command line)",
        "(.env)",
        "me:***@db",
    ] {
        assert!(printed.contains(line), "{line:?} is missing: {printed}");
    }
    assert!(!printed.contains("hush") && !printed.contains("sk-from"), "{printed}");
    let _: Value = serde_json::from_slice(&program::run(&["openapi"], &[], folder.path()).await.stdout)
        .expect("the document is JSON and needs nothing to run");
}

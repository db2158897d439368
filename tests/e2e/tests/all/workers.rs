//! Workers as whoever runs them sees and steers them.

use std::{process::Output, time::Duration};

use e2e_tests::{Base, PATIENCE, Product, Program, on_both_bases, product::free_port, program};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

on_both_bases!(
    inspection_shows_active_tasks_registered_types_and_stats,
    control_reaches_live_workers_and_tells_who_did_it,
    commands_manage_tasks_and_schedules_from_a_terminal,
    doctor_says_what_is_wrong_and_what_to_do,
    logs_show_the_start_each_task_and_the_whole_error,
);

async fn command(product: &Product, arguments: &[&str]) -> Output {
    let url = [("TASK_RUNNER_URL".to_owned(), product.api().server)];
    program::run(arguments, &url, product.folder.path()).await
}

/// What a command prints that must succeed.
async fn printed(product: &Product, arguments: &[&str]) -> String {
    let output = command(product, arguments).await;
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{arguments:?}: {out}{err}");
    out.trim_end().to_owned()
}

/// The first worker, once it is as wanted.
async fn worker_becomes(product: &Product, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let (api, deadline) = (product.api(), Instant::now() + PATIENCE);
    loop {
        let worker = api.get("/workers").await["items"][0].clone();
        if wanted(&worker) {
            return worker;
        }
        assert!(Instant::now() < deadline, "the worker is not {what}: {worker}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn inspection_shows_active_tasks_registered_types_and_stats(base: Base) {
    let product = base.setup().set("WORKER_NAME", "seen@%h").set("WORKER_TIME_LIMIT", "300").start().await;
    let api = product.api();
    let id = api.submit_type("demo.sleep", json!({ "seconds": 60 })).await;
    api.reaches(id, "PROCESSING").await;
    let worker = worker_becomes(&product, "busy", |worker| worker["active_count"] == 1).await;
    assert_eq!((&worker["state"], &worker["active"][0]["task_id"]), (&json!("alive"), &json!(id)));
    assert!(worker["memory_bytes"].as_i64().is_some_and(|bytes| bytes > 1_000_000), "{worker}");
    assert!(worker["version"].is_string() && worker["pid"].is_i64() && worker["host"].is_string());
    let name = worker["name"].as_str().expect("a name");
    assert!(name.starts_with("seen@"), "{name}");

    for (what, shown) in [
        (&["workers"][..], name),
        (&["inspect", "active"], "demo.sleep"),
        (&["inspect", "registered"], "ai.text_generation"),
        (&["inspect", "stats"], name),
        (&["inspect", "conf"], "worker_time_limit"),
        (&["inspect", "active-queues"], "every"),
        (&["inspect", "ping", "--worker", name], "pong"),
        (&["inspect", "scheduled"], "none"),
        (&["stats"], "demo_tasks"),
    ] {
        let text = printed(&product, what).await;
        assert!(text.contains(shown), "{what:?}: {text}");
    }
    let list: Value = serde_json::from_str(&printed(&product, &["workers", "--json"]).await).expect("JSON");
    assert_eq!(list["living"], 1);
    let nobody = command(&product, &["inspect", "active", "--worker", "nobody"]).await;
    assert_eq!(nobody.status.code(), Some(1));
    assert_eq!(api.cancel(id).await.status, 202);
}

async fn control_reaches_live_workers_and_tells_who_did_it(base: Base) {
    let mut product = base.setup().set("SHUTDOWN_GRACE", "1s").start().await;
    let api = product.api();
    let asked = Instant::now();
    let text = printed(&product, &["control", "pause"]).await;
    assert!(text.contains("done") && text.contains("takes no tasks"), "{text}");
    assert!(asked.elapsed() < Duration::from_secs(4), "news make it quick: {:?}", asked.elapsed());
    assert_eq!(api.get("/workers").await["items"][0]["state"], "paused");
    let waiting = api.submit_type("demo.noop", json!(null)).await;
    printed(&product, &["control", "concurrency", "3"]).await;
    assert_eq!(api.get("/workers").await["items"][0]["concurrency"], 3);
    assert_eq!(api.task(waiting).await["status"], "PENDING");
    printed(&product, &["control", "resume"]).await;
    api.completed(waiting).await;

    printed(&product, &["control", "remove-queue", "reports"]).await;
    assert_eq!(api.get("/workers").await["items"][0]["except_queues"], json!(["reports"]));
    printed(&product, &["control", "add-queue", "reports"]).await;
    printed(&product, &["control", "rate-limit", "demo.noop", "1/s"]).await;
    let limit = json!([{ "type": "demo.noop", "rate": "1/s" }]);
    assert_eq!(api.get("/workers").await["items"][0]["rate_limits"], limit);
    let mut limited = Vec::new();
    for _ in 0..3 {
        limited.push(api.submit_type("demo.noop", json!(null)).await);
    }
    let began = Instant::now();
    for id in limited {
        assert_eq!(api.completed(id).await["status"], "COMPLETED");
    }
    assert!(began.elapsed() > Duration::from_millis(1_500), "{:?}", began.elapsed());

    let unknown = api.send(Method::POST, "/workers/nobody/pause", None).await;
    assert_eq!(unknown.status, 404);
    let refused = command(&product, &["control", "rate-limit", "demo.nothing", "1/s"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stdout).contains("demo.nothing"));

    printed(&product, &["control", "drain"]).await;
    assert_eq!(product.worker().ends_within(PATIENCE).await.code(), Some(0), "a drained worker ends well");
}

async fn commands_manage_tasks_and_schedules_from_a_terminal(base: Base) {
    let product = base.start().await;
    let api = product.api();
    let divide = json!({ "operation": "divide", "x": 1, "y": 0 });
    let failed = api.submit_type("demo.simple_calculation", divide).await;
    api.ended(failed).await;
    let waiting = api.submit(json!({ "type": "demo.noop", "delay_seconds": 600 })).await["id"].clone();

    let list = printed(&product, &["tasks", "list", "--status", "failed"]).await;
    assert!(list.contains("division_by_zero") && !list.contains("demo.noop"), "{list}");
    let shown = printed(&product, &["tasks", "get", &failed.to_string()]).await;
    assert!(shown.contains("division_by_zero") && shown.contains("OUTCOME"), "{shown}");
    let input = r#"{"operation":"add","x":1,"y":0}"#;
    printed(&product, &["tasks", "retry", &failed.to_string(), "--input", input]).await;
    assert_eq!(api.completed(failed).await["result"], 1);
    let cancelled = printed(&product, &["tasks", "cancel", &waiting.to_string()]).await;
    assert_eq!(cancelled, format!("task {waiting}: CANCELLED"));
    printed(&product, &["tasks", "delete", &waiting.to_string()]).await;
    let gone = command(&product, &["tasks", "get", &waiting.to_string()]).await;
    assert_eq!(gone.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&gone.stderr).contains("there is no task"));

    let nightly = json!({ "cron": "0 2 * * *", "task": { "type": "demo.noop" } });
    api.send(Method::PUT, "/schedules/nightly", Some(&nightly)).await;
    for (what, shown) in [
        (&["schedules", "list"][..], "0 2 * * *"),
        (&["schedules", "show", "nightly"], "demo.noop"),
        (&["schedules", "pause", "nightly"], "true"),
        (&["schedules", "resume", "nightly"], "false"),
        (&["schedules", "firings", "nightly"], "none"),
    ] {
        let text = printed(&product, what).await;
        assert!(text.contains(shown), "{what:?}: {text}");
    }
    let task = printed(&product, &["schedules", "trigger", "nightly"]).await;
    api.completed(task.parse().expect("a task's number")).await;
}

async fn doctor_says_what_is_wrong_and_what_to_do(base: Base) {
    let mut product = base.setup().set("WORKER_QUEUES", "default,demo_tasks").start().await;
    let api = product.api();
    let mut environment = product.settings.clone();
    environment.push(("TASK_RUNNER_URL".to_owned(), api.server.clone()));
    let folder = product.folder.path().to_owned();
    let examined = async || {
        let output = program::run(&["doctor"], &environment, &folder).await;
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, text) = examined().await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("1 alive") && text.contains("nothing is wrong"), "{text}");

    let stranded = api.submit(json!({ "type": "demo.noop", "queue": "reports" })).await;
    let (code, text) = examined().await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("nobody serves") && text.contains("control add-queue reports"), "{text}");
    printed(&product, &["control", "add-queue", "reports"]).await;
    api.completed(stranded["id"].as_i64().expect("an id")).await;
    assert_eq!(examined().await.0, Some(0));

    product.kill();
    let (code, text) = examined().await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("start a server"), "{text}");
}

async fn logs_show_the_start_each_task_and_the_whole_error(base: Base) {
    let mut product = base.start().await;
    let api = product.api();
    api.completed(api.submit_type("demo.noop", json!(null)).await).await;
    let divide = json!({ "operation": "divide", "x": 1, "y": 0 });
    api.ended(api.submit_type("demo.simple_calculation", divide).await).await;
    for line in [
        "worker ready",
        "ai.text_generation",
        match base {
            Base::Sqlite => "order=\"SQLite\"",
            Base::PostgresAndRedis => "order=\"Redis",
        },
        "task received",
        "task started",
        "task succeeded in 0.",
        "division_by_zero: ",
    ] {
        product.worker().writes(line).await;
    }
}

#[tokio::test]
async fn a_dedicated_worker_has_its_name_queues_slots_and_time_limit_from_flags() {
    let product = Base::PostgresAndRedis.setup().workers(0).start().await;
    let api = product.api();
    let flags = ["-n", "urgent-worker@%h", "--queues=urgent,reports", "--concurrency=1", "--time-limit=2"];
    let mut worker = Program::start("task-runner-worker", &flags, &product.settings, product.folder.path());
    worker.writes("worker ready").await;
    let shown = api.get("/workers").await["items"][0].clone();
    let name = shown["name"].as_str().expect("a name");
    assert!(name.starts_with("urgent-worker@") && !name.contains('%'), "{name}");
    assert_eq!((&shown["queues"], &shown["concurrency"]), (&json!(["urgent", "reports"]), &json!(1)));
    let long = |queue: &str| json!({ "type": "demo.sleep", "input": { "seconds": 60 }, "queue": queue, "max_attempts": 1 });
    let elsewhere = api.submit(long("demo_tasks")).await["id"].as_i64().expect("an id");
    let capped = api.submit(long("urgent")).await["id"].as_i64().expect("an id");
    let ended = api.ended(capped).await;
    assert_eq!((&ended["status"], &ended["error"]["code"]), (&json!("FAILED"), &json!("time_limit")));
    assert_eq!(api.task(elsewhere).await["status"], "PENDING", "a dedicated worker serves its queues alone");
}

/// The worker finds its commands in the store.
#[tokio::test]
async fn control_works_with_redis_dead() {
    let dead = format!("redis://127.0.0.1:{}", free_port());
    let product = Base::PostgresAndRedis.setup().set("REDIS_URL", &dead).start().await;
    let asked = Instant::now();
    let answer = product.api().send(Method::POST, "/workers/all/pause", None).await;
    assert_eq!((answer.status.as_u16(), &answer.body["workers"][0]["outcome"]), (200, &json!("done")));
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[tokio::test]
async fn the_command_line_says_plainly_that_no_worker_is_alive() {
    let product = Base::PostgresAndRedis.setup().workers(0).start().await;
    for what in [&["workers"][..], &["inspect", "active"], &["inspect", "ping"], &["control", "pause"]] {
        let output = command(&product, what).await;
        assert_eq!(output.status.code(), Some(1), "{what:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("no worker is alive"), "{what:?}: {said}");
    }
    let nowhere = [("TASK_RUNNER_URL".to_owned(), format!("http://127.0.0.1:{}", free_port()))];
    let output = program::run(&["workers"], &nowhere, product.folder.path()).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("start a server"));
}

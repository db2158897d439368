//! `task-runner smoke`: what a newcomer would do, against any running server.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::{Api, Server, completed, duration_argument, wait_for_end};

use crate::say;

/// What to try, and how long.
#[derive(Debug, clap::Args)]
pub struct SmokeArgs {
    #[command(flatten)]
    server: Server,
    /// How long each task may take.
    #[arg(long, value_name = "DURATION", value_parser = duration_argument, default_value = "60s")]
    timeout: Duration,
}

/// Health, a calculation and a text task to their ends; prints a verdict per part. Fails when any part does.
pub async fn smoke(args: SmokeArgs) -> Result<ExitCode> {
    let api = args.server.api()?;
    let parts = [
        ("health", health(&api).await),
        ("calculation", calculation(&api, args.timeout).await),
        ("text", text(&api, args.timeout).await),
    ];
    let mut all_good = true;
    for (name, outcome) in parts {
        match outcome {
            Ok(what) => say!("ok     {name:<12} {what}"),
            Err(error) => {
                all_good = false;
                say!("FAILED {name:<12} {error:#}");
            }
        }
    }
    say!("{}", if all_good { "everything works" } else { "something is wrong" });
    Ok(if all_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn health(api: &Api) -> Result<String> {
    let health = api.get("/health").await?;
    let status = health["status"].as_str().context("no status")?;
    ensure!(matches!(status, "healthy" | "degraded"), "the server is {status}");
    Ok(format!("{status}, version {}", health["version"].as_str().unwrap_or("?")))
}

async fn calculation(api: &Api, patience: Duration) -> Result<String> {
    let input = json!({ "x": 10, "y": 20, "operation": "add" });
    let task = run(api, &json!({ "type": "demo.simple_calculation", "input": input }), patience).await?;
    ensure!(task["result"] == json!(30), "10 + 20 came out as {}", task["result"]);
    Ok(format!("task {}: {}, 10 + 20 = {}", task["id"], status(&task), task["result"]))
}

async fn text(api: &Api, patience: Duration) -> Result<String> {
    let task = run(api, &json!({ "prompt": "Explain quantum computing in one sentence" }), patience).await?;
    let length = task["result"].as_str().context("the result is not a text")?.chars().count();
    ensure!(length > 0, "the result is empty");
    let seconds = task["processing_time"].as_f64().unwrap_or(0.0);
    Ok(format!("task {}: {}, {length} characters in {seconds:.1} s", task["id"], status(&task)))
}

async fn run(api: &Api, body: &Value, patience: Duration) -> Result<Value> {
    let id = api.post("/tasks", body).await?["id"].as_i64().context("the server's answer has no id")?;
    let task = wait_for_end(api, id, patience).await?;
    completed(&task).with_context(|| format!("task {id}, after at most {} s", patience.as_secs_f64()))?;
    Ok(task)
}

fn status(task: &Value) -> &str {
    task["status"].as_str().unwrap_or("?")
}

//! `task-runner submit`.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{Server, completed, duration_argument, wait_for_end};

use crate::say;

/// What to submit.
#[derive(Debug, clap::Args)]
pub struct SubmitArgs {
    #[command(flatten)]
    server: Server,
    /// The prompt of a text task; leave it out with --type.
    #[arg(required_unless_present = "task_type", conflicts_with = "task_type")]
    prompt: Option<String>,
    /// The model of a text task.
    #[arg(long, requires = "prompt")]
    model: Option<String>,
    /// Another task type, such as demo.sleep.
    #[arg(long = "type", value_name = "TYPE")]
    task_type: Option<String>,
    /// The input of that type, as JSON.
    #[arg(long, value_name = "JSON", default_value = "{}", conflicts_with = "prompt")]
    input: String,
    /// 0 (first) to 9 (last).
    #[arg(long)]
    priority: Option<i64>,
    /// The queue, instead of where the type is routed.
    #[arg(long)]
    queue: Option<String>,
    /// Start this much later.
    #[arg(long, value_name = "DURATION", value_parser = duration_argument)]
    delay: Option<Duration>,
    /// Wait for the end and print the result; at most this long.
    #[arg(long, value_name = "DURATION", value_parser = duration_argument, num_args = 0..=1, default_missing_value = "30m", require_equals = true)]
    wait: Option<Duration>,
}

/// Submits a task and prints its id, or waits and prints its result.
pub async fn submit(args: SubmitArgs) -> Result<ExitCode> {
    let api = args.server.api()?;
    let mut body = match (&args.prompt, &args.task_type) {
        (Some(prompt), _) => json!({ "prompt": prompt, "model": args.model }),
        (None, task_type) => {
            let input: Value = serde_json::from_str(&args.input).context("--input is not valid JSON")?;
            json!({ "type": task_type, "input": input })
        }
    };
    body["priority"] = json!(args.priority);
    body["queue"] = json!(args.queue);
    body["delay_seconds"] = json!(args.delay.map(|delay| delay.as_secs_f64()));
    let task = api.post("/tasks", &body).await?;
    let id = task["id"].as_i64().context("the server's answer has no id")?;
    let Some(patience) = args.wait else {
        say!("{id}");
        return Ok(ExitCode::SUCCESS);
    };
    eprintln!("task {id}");
    let task = wait_for_end(&api, id, patience).await?;
    completed(&task)?;
    match &task["result"] {
        Value::String(text) => say!("{text}"),
        other => say!("{other}"),
    }
    Ok(ExitCode::SUCCESS)
}

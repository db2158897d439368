//! `task-runner tasks`: tasks from a terminal.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    Api, Server, items, query, show,
    table::{Table, moment, text, time},
};

use crate::say;

/// What to do with tasks.
#[derive(Debug, clap::Args)]
pub struct TasksArgs {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    server: Server,
    /// The server's answer as it is, for scripts.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Lists tasks, newest first.
    List(ListArgs),
    /// Shows a task with its attempts.
    Get {
        /// Its number.
        id: i64,
    },
    /// Says what holds a task back, and what to do about it.
    Why {
        /// Its number.
        id: i64,
    },
    /// Stops tasks: waiting ones at once, running ones within a second.
    Cancel(Ids),
    /// Runs ended tasks again.
    Retry {
        #[command(flatten)]
        ids: Ids,
        /// The input that they get instead of theirs, as JSON.
        #[arg(long, value_name = "JSON")]
        input: Option<String>,
    },
    /// Removes tasks with their results; running ones have to be cancelled first.
    Delete(Ids),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// Only those that stand here, such as pending,running.
    #[arg(long, value_name = "STATUS")]
    status: Option<String>,
    /// Only those of this type.
    #[arg(long = "type", value_name = "TYPE")]
    task_type: Option<String>,
    /// Only those of this queue.
    #[arg(long, value_name = "QUEUE")]
    queue: Option<String>,
    /// Only those that ended with an error of this code.
    #[arg(long, value_name = "CODE")]
    error_code: Option<String>,
    /// How many at most, up to 500.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: u32,
    /// `next_cursor` of the page before.
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Ids {
    /// Their numbers.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<i64>,
}

/// Carries it out.
pub async fn tasks(args: TasksArgs) -> Result<ExitCode> {
    let api = args.server.api()?;
    match args.what {
        What::List(list_args) => list(&api, args.json, list_args).await,
        What::Get { id } => get(&api, args.json, id).await,
        What::Why { id } => why(&api, args.json, id).await,
        What::Cancel(Ids { ids }) => {
            each(&ids, async |id| {
                let task = api.post(&format!("/tasks/{id}/cancel"), &json!({})).await?;
                let running = task["status"] == "PROCESSING";
                Ok(if running { "is being stopped".to_owned() } else { text(&task["status"]) })
            })
            .await
        }
        What::Retry { ids, input } => {
            let input: Option<Value> = input
                .map(|text| serde_json::from_str(&text))
                .transpose()
                .context("--input is not valid JSON")?;
            let body = input.map_or(json!({}), |input| json!({ "input": input }));
            each(&ids.ids, async |id| {
                Ok(text(&api.post(&format!("/tasks/{id}/retry"), &body).await?["status"]))
            })
            .await
        }
        What::Delete(Ids { ids }) => {
            each(&ids, async |id| {
                api.delete(&format!("/tasks/{id}")).await?;
                Ok("deleted".to_owned())
            })
            .await
        }
    }
}

/// One by one, each with its own verdict. Fails when any did.
async fn each(ids: &[i64], act: impl AsyncFn(i64) -> Result<String>) -> Result<ExitCode> {
    let mut all_good = true;
    for id in ids {
        match act(*id).await {
            Ok(what) => say!("task {id}: {what}"),
            Err(error) => {
                all_good = false;
                eprintln!("task {id}: {error:#}");
            }
        }
    }
    Ok(if all_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn list(api: &Api, json: bool, args: ListArgs) -> Result<ExitCode> {
    let path = query(
        "/tasks",
        &[
            ("status", args.status),
            ("type", args.task_type),
            ("queue", args.queue),
            ("error_code", args.error_code),
            ("limit", Some(args.limit.to_string())),
            ("cursor", args.cursor),
        ],
    );
    let page = api.get(&path).await?;
    let mut table =
        Table::new(&["ID", "STATUS", "TYPE", "QUEUE", "PRIORITY", "ATTEMPT", "CREATED", "TOOK", "ERROR"]);
    for task in items(&page) {
        table.row([
            text(&task["id"]),
            text(&task["status"]),
            text(&task["type"]),
            text(&task["queue"]),
            text(&task["priority"]),
            text(&task["attempt"]),
            moment(&task["created_at"]),
            time(task["processing_time"].as_f64()),
            text(&task["error"]["code"]),
        ]);
    }
    show(json, &page, &table);
    if let (Some(cursor), false) = (page["next_cursor"].as_str(), json) {
        eprintln!("there are more: --cursor {cursor}");
    }
    Ok(ExitCode::SUCCESS)
}

async fn get(api: &Api, json: bool, id: i64) -> Result<ExitCode> {
    let task = api.get(&format!("/tasks/{id}")).await?;
    if json {
        say!("{task:#}");
        return Ok(ExitCode::SUCCESS);
    }
    for (field, value) in task.as_object().into_iter().flatten() {
        if !value.is_null() {
            say!("{field:<17} {}", text(value));
        }
    }
    let attempts = api.get(&format!("/tasks/{id}/attempts")).await?;
    let mut table = Table::new(&["ATTEMPT", "WORKER", "STARTED", "ENDED", "OUTCOME", "ERROR"]);
    for attempt in items(&attempts) {
        let error = &attempt["error"];
        let error = if error.is_null() {
            "-".to_owned()
        } else {
            format!("{}: {}", text(&error["code"]), text(&error["message"]))
        };
        table.row([
            text(&attempt["attempt"]),
            text(&attempt["worker"]),
            moment(&attempt["started_at"]),
            moment(&attempt["ended_at"]),
            text(&attempt["outcome"]),
            error,
        ]);
    }
    if !table.is_empty() {
        say!("\n{table}");
    }
    Ok(ExitCode::SUCCESS)
}

async fn why(api: &Api, json: bool, id: i64) -> Result<ExitCode> {
    let why = api.get(&format!("/tasks/{id}/why")).await?;
    if json {
        say!("{why:#}");
        return Ok(ExitCode::SUCCESS);
    }
    say!("task {id} is {}", text(&why["status"]));
    let holds = why["held_by"].as_array().map(Vec::as_slice).unwrap_or_default();
    if holds.is_empty() {
        say!("held back by {}", text(&why["summary"]));
    }
    for hold in holds {
        let until = if hold["until"].is_null() {
            String::new()
        } else {
            format!(" (until {})", moment(&hold["until"]))
        };
        say!("held back: {}{until}", text(&hold["message"]));
    }
    if !why["expected_start"].is_null() {
        say!("likely to start at {}", moment(&why["expected_start"]));
    }
    let mut table = Table::new(&["WORKER", "NAME", "STATE", "COULD RUN IT"]);
    for worker in why["workers"].as_array().into_iter().flatten() {
        let could = if worker["could_run"] == true { "yes" } else { "no" };
        table.row([text(&worker["id"]), text(&worker["name"]), text(&worker["state"]), could.to_owned()]);
    }
    if !table.is_empty() {
        say!("\n{table}");
    }
    Ok(ExitCode::SUCCESS)
}

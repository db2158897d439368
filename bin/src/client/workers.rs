//! `task-runner workers`, `inspect` and `control`: what workers do, and what they are told to do.

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    Server, duration_argument, items, segment, show,
    table::{Table, moment, size, text, time},
};

/// Which server, and how its answers are shown.
#[derive(Debug, clap::Args)]
pub struct WorkersArgs {
    #[command(flatten)]
    server: Server,
    /// The server's answer as it is, for scripts.
    #[arg(long)]
    json: bool,
}

/// Lists the workers. Fails when none is alive.
pub async fn workers(args: WorkersArgs) -> Result<ExitCode> {
    let list = args.server.api()?.get("/workers").await?;
    let mut table = Table::new(&[
        "ID", "NAME", "STATE", "QUEUES", "SLOTS", "ACTIVE", "DONE", "FAILED", "MEMORY", "UP", "VERSION",
    ]);
    for worker in items(&list) {
        table.row([
            text(&worker["id"]),
            text(&worker["name"]),
            text(&worker["state"]),
            queues(worker),
            text(&worker["concurrency"]),
            text(&worker["active_count"]),
            text(&worker["completed"]),
            text(&worker["failed"]),
            size(worker["memory_bytes"].as_u64()),
            time(worker["uptime_seconds"].as_f64()),
            text(&worker["version"]),
        ]);
    }
    show(args.json, &list, &table);
    Ok(warn(args.json, &list))
}

/// Says what is wrong, and answers how the command ends.
fn warn(quiet: bool, list: &Value) -> ExitCode {
    if let (Some(warning), false) = (list["warning"].as_str(), quiet) {
        eprintln!("{warning}");
    }
    if list["living"] == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

/// What a worker serves, in a word.
fn queues(worker: &Value) -> String {
    let named = |field: &str| text(&worker[field]);
    match (named("queues").as_str(), named("except_queues").as_str()) {
        ("", "" | "-") => "every".to_owned(),
        ("", except) => format!("every but {except}"),
        (queues, _) => queues.to_owned(),
    }
}

/// What is asked of living workers.
#[derive(Debug, clap::Args)]
pub struct InspectArgs {
    #[command(subcommand)]
    what: Inspect,
    #[command(flatten)]
    server: Server,
    /// Only the worker of this name or number [default: all].
    #[arg(long, global = true, value_name = "NAME")]
    worker: Option<String>,
    /// The server's answer as it is, for scripts.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
enum Inspect {
    /// Asks each worker for a sign of life.
    Ping,
    /// The tasks that run.
    Active,
    /// The task types that the workers can run.
    Registered,
    /// Slots, counts, memory and uptime.
    Stats,
    /// What the workers were started with.
    Conf,
    /// The queues that the workers serve.
    ActiveQueues,
    /// The tasks that wait for their time. They wait in the store, not in a worker.
    Scheduled,
}

/// Shows what living workers do. Fails when none is alive.
pub async fn inspect(args: InspectArgs) -> Result<ExitCode> {
    let api = args.server.api()?;
    match args.what {
        Inspect::Ping => {
            let path = format!("/workers/{}/ping", segment(args.worker.as_deref().unwrap_or("all")));
            let answers = api.post(&path, &json!({})).await?;
            return Ok(show_answers(args.json, &answers));
        }
        Inspect::Scheduled => {
            let tasks = api.get("/tasks?status=SCHEDULED&limit=100").await?;
            let mut table = Table::new(&["TASK", "TYPE", "QUEUE", "RUN AT", "ATTEMPT"]);
            for task in items(&tasks) {
                let (id, task_type, queue) = (text(&task["id"]), text(&task["type"]), text(&task["queue"]));
                table.row([id, task_type, queue, moment(&task["run_at"]), text(&task["attempt"])]);
            }
            show(args.json, &tasks, &table);
            return Ok(ExitCode::SUCCESS);
        }
        Inspect::Active | Inspect::Registered | Inspect::Stats | Inspect::Conf | Inspect::ActiveQueues => {}
    }
    let mut list = api.get("/workers").await?;
    if let Some(found) = list["items"].as_array_mut() {
        let is_gone = |worker: &Value| matches!(worker["state"].as_str(), Some("dead" | "left"));
        found.retain(|worker| !is_gone(worker) && is_called(worker, args.worker.as_deref()));
        if let (true, Some(name)) = (found.is_empty(), &args.worker) {
            bail!("no worker that is alive is called {name:?}; `task-runner workers` lists them");
        }
    }
    let table = match args.what {
        Inspect::Active => active(&list),
        Inspect::Registered => registered(&list),
        Inspect::Conf => conf(&list),
        Inspect::ActiveQueues => active_queues(&list),
        Inspect::Stats | Inspect::Ping | Inspect::Scheduled => stats(&list),
    };
    show(args.json, &list, &table);
    Ok(warn(args.json, &list))
}

fn is_called(worker: &Value, name: Option<&str>) -> bool {
    let id = worker["id"].as_i64();
    name.is_none_or(|name| worker["name"] == name || (id.is_some() && name.parse().ok() == id))
}

fn active(list: &Value) -> Table {
    let mut table = Table::new(&["WORKER", "TASK", "ATTEMPT", "TYPE", "QUEUE", "SINCE"]);
    for worker in items(list) {
        for task in worker["active"].as_array().into_iter().flatten() {
            table.row([
                text(&worker["name"]),
                text(&task["task_id"]),
                text(&task["attempt"]),
                text(&task["type"]),
                text(&task["queue"]),
                moment(&task["started_at"]),
            ]);
        }
    }
    table
}

fn registered(list: &Value) -> Table {
    let mut table = Table::new(&["WORKER", "TYPE", "RATE LIMIT"]);
    for worker in items(list) {
        for task_type in worker["types"].as_array().into_iter().flatten() {
            let limits = worker["rate_limits"].as_array().into_iter().flatten();
            let limit = limits.into_iter().find(|limit| limit["type"] == *task_type);
            let limit = limit.map_or("-".to_owned(), |limit| text(&limit["rate"]));
            table.row([text(&worker["name"]), text(task_type), limit]);
        }
    }
    table
}

fn stats(list: &Value) -> Table {
    let mut table = Table::new(&[
        "WORKER",
        "STATE",
        "SLOTS",
        "ACTIVE",
        "DONE",
        "FAILED",
        "RETRIED",
        "CANCELLED",
        "MEMORY",
        "UP",
        "PID",
        "HOST",
    ]);
    for worker in items(list) {
        table.row([
            text(&worker["name"]),
            text(&worker["state"]),
            text(&worker["concurrency"]),
            text(&worker["active_count"]),
            text(&worker["completed"]),
            text(&worker["failed"]),
            text(&worker["retried"]),
            text(&worker["cancelled"]),
            size(worker["memory_bytes"].as_u64()),
            time(worker["uptime_seconds"].as_f64()),
            text(&worker["pid"]),
            text(&worker["host"]),
        ]);
    }
    table
}

fn conf(list: &Value) -> Table {
    let mut table = Table::new(&["WORKER", "SETTING", "VALUE"]);
    for worker in items(list) {
        for (setting, value) in [("queues", queues(worker)), ("concurrency", text(&worker["concurrency"]))] {
            table.row([text(&worker["name"]), setting.to_owned(), value]);
        }
        for setting in worker["settings"].as_array().into_iter().flatten() {
            table.row([text(&worker["name"]), text(&setting["name"]), text(&setting["value"])]);
        }
    }
    table
}

fn active_queues(list: &Value) -> Table {
    let mut table = Table::new(&["WORKER", "STATE", "QUEUES"]);
    for worker in items(list) {
        table.row([text(&worker["name"]), text(&worker["state"]), queues(worker)]);
    }
    table
}

/// What living workers are told.
#[derive(Debug, clap::Args)]
pub struct ControlArgs {
    #[command(subcommand)]
    what: Control,
    #[command(flatten)]
    server: Server,
    /// Only the worker of this name or number [default: all].
    #[arg(long, global = true, value_name = "NAME", default_value = "all", hide_default_value = true)]
    worker: String,
    /// How long to wait for the workers' answers.
    #[arg(long, global = true, value_name = "DURATION", value_parser = duration_argument, default_value = "5s")]
    wait: Duration,
    /// The server's answer as it is, for scripts.
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Clone, Subcommand)]
enum Control {
    /// Take no tasks until told to; what runs goes on.
    Pause,
    /// Take tasks again.
    Resume,
    /// Have so many slots, each worker.
    Concurrency {
        /// Tasks in flight at once.
        slots: u32,
    },
    /// Serve another queue as well.
    AddQueue {
        /// Its name.
        queue: String,
    },
    /// Serve a queue no more.
    RemoveQueue {
        /// Its name.
        queue: String,
    },
    /// Start tasks of one type at this rate at most, each worker.
    RateLimit {
        /// The task type.
        task_type: String,
        /// Such as 10/s, 600/m, 5/h; `none` lifts the limit.
        rate: String,
    },
    /// Finish what runs, however long that takes, and end.
    Drain,
    /// End as on SIGTERM: give back what is not finished within the grace time.
    Shutdown,
}

/// Tells living workers what to do, and shows what they answered. Fails unless each of them did it.
pub async fn control(args: ControlArgs) -> Result<ExitCode> {
    let (verb, body) = match args.what {
        Control::Pause => ("pause", json!({})),
        Control::Resume => ("resume", json!({})),
        Control::Concurrency { slots } => ("concurrency", json!({ "concurrency": slots })),
        Control::AddQueue { queue } => ("add-queue", json!({ "queue": queue })),
        Control::RemoveQueue { queue } => ("remove-queue", json!({ "queue": queue })),
        Control::RateLimit { task_type, rate } => {
            let rate = Some(rate).filter(|rate| rate != "none");
            ("rate-limit", json!({ "type": task_type, "rate": rate }))
        }
        Control::Drain => ("drain", json!({})),
        Control::Shutdown => ("shutdown", json!({})),
    };
    let path = format!("/workers/{}/{verb}?wait={}ms", segment(&args.worker), args.wait.as_millis());
    let answers = args.server.api()?.post(&path, &body).await?;
    Ok(show_answers(args.json, &answers))
}

fn show_answers(json: bool, answers: &Value) -> ExitCode {
    let mut table = Table::new(&["WORKER", "OUTCOME", "ANSWER"]);
    let workers = || answers["workers"].as_array().into_iter().flatten();
    for worker in workers() {
        let message = match worker["outcome"].as_str() {
            Some("pending") => "no answer yet; it obeys as soon as it can".to_owned(),
            _ => text(&worker["message"]),
        };
        table.row([text(&worker["name"]), text(&worker["outcome"]), message]);
    }
    show(json, answers, &table);
    if workers().all(|worker| worker["outcome"] == "done") { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

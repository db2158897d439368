//! `task-runner queues`: queues from a terminal.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    Server, items, segment, show,
    table::{Table, text, time},
};

use crate::say;

/// What to do with queues.
#[derive(Debug, clap::Args)]
pub struct QueuesArgs {
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
    /// Lists queues with their counts, speed and warnings.
    List,
    /// Lets no task of a queue start, on any worker, until it is resumed.
    Pause(Named),
    /// Lets a queue go on.
    Resume(Named),
    /// Cancels what waits in a queue.
    Purge(Named),
}

#[derive(Debug, clap::Args)]
struct Named {
    /// Its name.
    name: String,
}

/// Carries it out.
pub async fn queues(args: QueuesArgs) -> Result<ExitCode> {
    let api = args.server.api()?;
    let path = |named: &Named, verb: &str| format!("/queues/{}/{verb}", segment(&named.name));
    match &args.what {
        What::List => {
            let list = api.get("/queues").await?;
            show(args.json, &list, &table_of(items(&list)));
            for queue in items(&list).filter(|_| !args.json) {
                if let Some(warning) = queue["warning"].as_str() {
                    eprintln!("{}: {warning}", text(&queue["name"]));
                }
            }
        }
        What::Pause(named) => show_one(args.json, &api.post(&path(named, "pause"), &json!({})).await?),
        What::Resume(named) => show_one(args.json, &api.post(&path(named, "resume"), &json!({})).await?),
        What::Purge(named) => {
            let (mut purged, mut more) = (0, true);
            // The server stops at a limit of its own.
            while more {
                let step = api.post(&path(named, "purge"), &json!({})).await?;
                purged += step["purged"].as_i64().unwrap_or(0);
                more = step["more"] == true;
            }
            let answer = json!({ "queue": named.name, "purged": purged });
            say!("{}", if args.json { answer.to_string() } else { format!("{purged} tasks cancelled") });
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show_one(json: bool, queue: &Value) {
    show(json, queue, &table_of([queue]));
}

fn table_of<'a>(queues: impl IntoIterator<Item = &'a Value>) -> Table {
    let mut table = Table::new(&[
        "QUEUE",
        "STATE",
        "PENDING",
        "RUNNING",
        "FAILED",
        "OLDEST",
        "PER MINUTE",
        "FAILURES",
        "MEAN",
        "P95",
        "WORKERS",
    ]);
    for queue in queues {
        let (tasks, recent) = (&queue["tasks"], &queue["recent"]);
        let share = recent["failure_rate"].as_f64().map(|share| format!("{:.1} %", share * 100.0));
        let speed = recent["per_minute"].as_f64().map(|speed| format!("{speed:.1}"));
        table.row([
            text(&queue["name"]),
            if queue["paused"] == true { "paused" } else { "open" }.to_owned(),
            text(&tasks["pending"]),
            text(&tasks["processing"]),
            text(&tasks["failed"]),
            time(queue["oldest_waiting_seconds"].as_f64()),
            speed.unwrap_or("-".to_owned()),
            share.unwrap_or("-".to_owned()),
            time(recent["mean_seconds"].as_f64()),
            time(recent["p95_seconds"].as_f64()),
            text(&queue["workers"]),
        ]);
    }
    table
}

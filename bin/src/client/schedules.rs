//! `task-runner schedules`: schedules from a terminal.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use serde_json::{Value, json};

use super::{
    Server, items, query, segment, show,
    table::{Table, moment, text},
};

use crate::say;

/// What to do with schedules.
#[derive(Debug, clap::Args)]
pub struct SchedulesArgs {
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
    /// Lists schedules, by name.
    List,
    /// Shows a schedule.
    Show(Named),
    /// Lets a schedule stand still; ticks that pass meanwhile are forgotten.
    Pause(Named),
    /// Lets a schedule go on.
    Resume(Named),
    /// Submits a schedule's task now, and prints its id.
    Trigger(Named),
    /// What became of a schedule's ticks, the latest first.
    Firings {
        #[command(flatten)]
        named: Named,
        /// How many at most, up to 500.
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: u32,
    },
}

#[derive(Debug, clap::Args)]
struct Named {
    /// Its name.
    name: String,
}

/// Carries it out.
pub async fn schedules(args: SchedulesArgs) -> Result<ExitCode> {
    let api = args.server.api()?;
    let path = |named: &Named, rest: &str| format!("/schedules/{}{rest}", segment(&named.name));
    match &args.what {
        What::List => {
            let list = api.get("/schedules?limit=500").await?;
            show(args.json, &list, &table_of(items(&list)));
        }
        What::Show(named) => show_one(args.json, &api.get(&path(named, "")).await?),
        What::Pause(named) => show_one(args.json, &api.post(&path(named, "/pause"), &json!({})).await?),
        What::Resume(named) => show_one(args.json, &api.post(&path(named, "/resume"), &json!({})).await?),
        What::Trigger(named) => {
            let task = api.post(&path(named, "/trigger"), &json!({})).await?;
            say!("{}", if args.json { format!("{task:#}") } else { text(&task["id"]) });
        }
        What::Firings { named, limit } => {
            let limit = [("limit", Some(limit.to_string()))];
            let list = api.get(&query(&path(named, "/firings"), &limit)).await?;
            let mut table = Table::new(&["TICK", "OUTCOME", "TASK", "TICKS", "UNTIL", "AT"]);
            for firing in items(&list) {
                table.row([
                    moment(&firing["tick"]),
                    text(&firing["outcome"]),
                    text(&firing["task_id"]),
                    text(&firing["ticks"]),
                    moment(&firing["until"]),
                    moment(&firing["at"]),
                ]);
            }
            show(args.json, &list, &table);
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show_one(json: bool, schedule: &Value) {
    show(json, schedule, &table_of([schedule]));
}

fn table_of<'a>(schedules: impl IntoIterator<Item = &'a Value>) -> Table {
    let mut table = Table::new(&["NAME", "WHEN", "TASK", "QUEUE", "PAUSED", "NEXT", "LAST", "LAST TASK"]);
    for schedule in schedules {
        let when = match schedule["cron"].as_str() {
            Some(cron) => format!("{cron} ({})", text(&schedule["time_zone"])),
            None => format!("every {} s", text(&schedule["every_seconds"])),
        };
        table.row([
            text(&schedule["name"]),
            when,
            text(&schedule["task"]["type"]),
            text(&schedule["task"]["queue"]),
            text(&schedule["paused"]),
            moment(&schedule["next_ticks"][0]),
            moment(&schedule["last_tick"]),
            text(&schedule["last_task_id"]),
        ]);
    }
    table
}

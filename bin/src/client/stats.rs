//! `task-runner stats`: how many tasks stand where.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::Value;

use super::{
    Server, show,
    table::{Table, text},
};

const STATES: [&str; 7] =
    ["scheduled", "pending", "processing", "completed", "failed", "cancelled", "expired"];

/// Which server, and how its answer is shown.
#[derive(Debug, clap::Args)]
pub struct StatsArgs {
    #[command(flatten)]
    server: Server,
    /// The server's answer as it is, for scripts.
    #[arg(long)]
    json: bool,
}

/// Counts by queue and in all.
pub async fn stats(args: StatsArgs) -> Result<ExitCode> {
    let stats = args.server.api()?.get("/stats").await?;
    let mut table = Table::new(&[
        "QUEUE",
        "SCHEDULED",
        "PENDING",
        "PROCESSING",
        "COMPLETED",
        "FAILED",
        "CANCELLED",
        "EXPIRED",
    ]);
    let row = |name: String, counts: &Value| {
        std::iter::once(name).chain(STATES.map(|state| text(&counts[state]))).collect::<Vec<_>>()
    };
    for queue in stats["queues"].as_array().into_iter().flatten() {
        table.row(row(text(&queue["queue"]), &queue["tasks"]));
    }
    table.row(row("in all".to_owned(), &stats["tasks"]));
    show(args.json, &stats, &table);
    Ok(ExitCode::SUCCESS)
}

//! `task-runner-worker`: runs tasks, on PostgreSQL and Redis. Run as many as you like.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use task_runner::{
    config::Layers,
    process::{Process, Role},
};

/// A worker of the task runner. Every configuration key is also read from the environment; `task-runner config` lists
/// them.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    /// The configuration file [default: task-runner.toml where it exists].
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// postgres://… [env: DATABASE_URL].
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    /// redis://… [env: REDIS_URL].
    #[arg(long, value_name = "URL")]
    redis_url: Option<String>,
    /// Queues to serve, comma separated, with weights where wanted (a:3,b:1) [env: WORKER_QUEUES] [default: every queue, also later ones].
    #[arg(long, short = 'Q', value_name = "A,B", allow_hyphen_values = true)]
    queues: Option<String>,
    /// Queues not to serve, comma separated; `--queues=-A` does the same [env: WORKER_EXCLUDE_QUEUES].
    #[arg(long, value_name = "A,B")]
    exclude_queues: Option<String>,
    /// Across its queues: priority, strict or weighted [env: WORKER_QUEUE_ORDER] [default: priority].
    #[arg(long, value_name = "ORDER")]
    queue_order: Option<String>,
    /// What people call it; %h is the host, %p the process id [env: WORKER_NAME] [default: worker@%h].
    #[arg(long, short = 'n', value_name = "NAME")]
    name: Option<String>,
    /// Tasks in flight at once [env: WORKER_CONCURRENCY] [default: 1000].
    #[arg(long, short = 'c', value_name = "N")]
    concurrency: Option<usize>,
    /// Ask handlers to stop after so long, whatever their tasks allow: 240, 4m [env: WORKER_SOFT_TIME_LIMIT].
    #[arg(long, value_name = "DURATION")]
    soft_time_limit: Option<String>,
    /// Stop attempts after so long, whatever their tasks allow: 300, 5m [env: WORKER_TIME_LIMIT].
    #[arg(long, value_name = "DURATION")]
    time_limit: Option<String>,
    /// Drain after so many tasks, for a supervisor to start a fresh worker [env: WORKER_MAX_TASKS].
    #[arg(long, value_name = "N")]
    max_tasks: Option<u64>,
    /// Drain when the process uses more memory than this, such as 512MB [env: WORKER_MAX_MEMORY].
    #[arg(long, value_name = "SIZE")]
    max_memory: Option<String>,
    /// What is logged [env: RUST_LOG] [default: info].
    #[arg(long, value_name = "FILTER")]
    loglevel: Option<String>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let mut layers = Layers::read(cli.config.as_deref())?;
    layers.flag("database_url", cli.database_url);
    layers.flag("redis_url", cli.redis_url);
    layers.flag("worker_queues", cli.queues);
    layers.flag("worker_exclude_queues", cli.exclude_queues);
    layers.flag("worker_queue_order", cli.queue_order);
    layers.flag("worker_name", cli.name);
    layers.flag("worker_concurrency", cli.concurrency);
    layers.flag("worker_soft_time_limit", cli.soft_time_limit);
    layers.flag("worker_time_limit", cli.time_limit);
    layers.flag("worker_max_tasks", cli.max_tasks);
    layers.flag("worker_max_memory", cli.max_memory);
    layers.flag("rust_log", cli.loglevel);
    Process::new(layers.config()?, Role::Worker).run().await
}

//! `task-runner-api`: the HTTP API and the upkeep, on PostgreSQL and Redis. Run as many as you like.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use task_runner::{
    config::Layers,
    process::{Process, Role},
};

/// The HTTP API of the task runner. Every configuration key is also read from the environment; `task-runner config`
/// lists them.
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
    /// Where it listens [env: LISTEN] [default: 127.0.0.1:8000].
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
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
    layers.flag("listen", cli.listen);
    layers.flag("rust_log", cli.loglevel);
    Process::new(layers.config()?, Role::Api).run().await
}

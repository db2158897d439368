//! `task-runner`: the whole product in one process, and the command line.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};
use task_runner::{
    client,
    config::{Config, Database, Layers},
    doctor,
    process::{Process, Role},
    say, wiring,
};

/// Runs slow AI work: submit over HTTP, get an id at once, watch it live, never lose it.
///
/// Without a command it starts API, worker and upkeep in one process.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct Flags {
    /// The configuration file [default: task-runner.toml where it exists].
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where tasks are kept: sqlite://PATH or postgres://… [env: DATABASE_URL] [default: sqlite://data/task-runner.db].
    #[arg(long, global = true, value_name = "URL")]
    database_url: Option<String>,
    /// Order and news, with PostgreSQL: redis://… [env: REDIS_URL].
    #[arg(long, global = true, value_name = "URL")]
    redis_url: Option<String>,
    /// Where the API listens [env: LISTEN] [default: 127.0.0.1:8000].
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Tasks in flight at once [env: WORKER_CONCURRENCY] [default: 1000].
    #[arg(long, value_name = "N")]
    concurrency: Option<usize>,
    /// How long the simulated provider takes [env: SIMULATED_LATENCY] [default: 5s..15s].
    #[arg(long, value_name = "RANGE")]
    simulated_latency: Option<String>,
    /// What is logged [env: RUST_LOG] [default: info].
    #[arg(long, global = true, value_name = "FILTER")]
    loglevel: Option<String>,
    /// text or json [env: LOG_FORMAT] [default: text].
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Brings the PostgreSQL schema up to date; safe beside running processes and beside other migrations.
    Migrate,
    /// Prints the OpenAPI document.
    Openapi,
    /// Prints every configuration key with its value and where that comes from.
    Config,
    /// Submits a task to a running server.
    Submit(client::SubmitArgs),
    /// Watches a task: a progress bar, the text as it is written, the result.
    Watch(client::WatchArgs),
    /// Looks for what keeps tasks from running, and says what to do about it.
    Doctor(doctor::DoctorArgs),
    /// Lists the workers.
    Workers(client::WorkersArgs),
    /// Shows what living workers do.
    Inspect(client::InspectArgs),
    /// Tells living workers what to do.
    Control(client::ControlArgs),
    /// Lists tasks, shows them, stops them, runs them again, removes them.
    Tasks(client::TasksArgs),
    /// Lists queues, pauses and resumes them, cancels what waits there.
    Queues(client::QueuesArgs),
    /// Lists schedules, pauses and resumes them, triggers them, shows what they fired.
    Schedules(client::SchedulesArgs),
    /// Counts tasks by queue and state.
    Stats(client::StatsArgs),
    /// Does what a newcomer would do against a running server, and says how it went.
    Smoke(client::SmokeArgs),
}

impl Flags {
    fn layers(&self) -> Result<Layers> {
        let mut layers = Layers::read(self.config.as_deref())?;
        layers.flag("database_url", self.database_url.as_ref());
        layers.flag("redis_url", self.redis_url.as_ref());
        layers.flag("listen", self.listen.as_ref());
        layers.flag("worker_concurrency", self.concurrency);
        layers.flag("simulated_latency", self.simulated_latency.as_ref());
        layers.flag("rust_log", self.loglevel.as_ref());
        layers.flag("log_format", self.log_format.as_ref());
        Ok(layers)
    }
}

#[tokio::main]
async fn main() -> Result<std::process::ExitCode> {
    let cli = Cli::parse();
    let layers = cli.flags.layers()?;
    match cli.command {
        None => Process::new(layers.config()?, Role::Standalone).run().await?,
        Some(Command::Migrate) => migrate(&layers.config()?).await?,
        Some(Command::Openapi) => say!("{}", wiring::openapi_document(&layers.config()?)),
        Some(Command::Config) => print_config(&layers),
        Some(Command::Submit(args)) => return client::submit(args).await,
        Some(Command::Watch(args)) => return client::watch(args).await,
        Some(Command::Doctor(args)) => return doctor::doctor(args, layers.config()).await,
        Some(Command::Workers(args)) => return client::workers(args).await,
        Some(Command::Inspect(args)) => return client::inspect(args).await,
        Some(Command::Control(args)) => return client::control(args).await,
        Some(Command::Tasks(args)) => return client::tasks(args).await,
        Some(Command::Queues(args)) => return client::queues(args).await,
        Some(Command::Schedules(args)) => return client::schedules(args).await,
        Some(Command::Stats(args)) => return client::stats(args).await,
        Some(Command::Smoke(args)) => return client::smoke(args).await,
    }
    Ok(std::process::ExitCode::SUCCESS)
}

async fn migrate(config: &Config) -> Result<()> {
    let Database::Postgres(url) = &config.database else {
        bail!(
            "DATABASE_URL names a SQLite file, which `task-runner` brings up to date itself when it starts"
        );
    };
    match postgres_adapter::PostgresStore::migrate(url).await? {
        0 => say!("the schema was up to date"),
        steps => say!("the schema is up to date, {steps} migrations later"),
    }
    Ok(())
}

fn print_config(layers: &Layers) {
    for (key, value, source) in layers.show() {
        say!("# {} ({source})\n{} = {value:?}\n", key.meaning, key.name);
    }
    layers.show_queues().iter().for_each(|queue| say!("{queue}"));
}

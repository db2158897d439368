//! A process from start to drain.

use std::{io::Write as _, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use application::{
    ports::Store,
    registry::TaskTypeSpec,
    worker::{Shutdown, Worker},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, Database},
    logs, memory,
    wiring::{Wiring, api_config, worker_config},
};

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything, in one process.
    Standalone,
    /// The HTTP API and the upkeep.
    Api,
    /// A worker and the upkeep.
    Worker,
}

/// A process of the product. Programs with task types of their own add them with [`Process::with_types`].
pub struct Process {
    config: Config,
    role: Role,
    types: Vec<TaskTypeSpec>,
    decorate: Option<DecorateStore>,
}

/// Puts something between the use cases and the store.
type DecorateStore = Box<dyn FnOnce(Arc<dyn Store>) -> Arc<dyn Store> + Send>;

impl Process {
    /// A process with the built-in task types.
    pub fn new(config: Config, role: Role) -> Self {
        Self { config, role, types: Vec::new(), decorate: None }
    }

    /// Adds task types.
    pub fn with_types(mut self, types: impl IntoIterator<Item = TaskTypeSpec>) -> Self {
        self.types.extend(types);
        self
    }

    /// Puts a decorator between the use cases and the store, such as one that counts calls or keeps an audit of its own.
    /// It answers for the store's promises from then on.
    pub fn with_store(
        mut self,
        decorate: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store> + Send + 'static,
    ) -> Self {
        self.decorate = Some(Box::new(decorate));
        self
    }

    /// Starts, serves until a signal comes, drains. A second signal stops at once.
    pub async fn run(self) -> Result<()> {
        let Self { config, role, types, decorate } = self;
        logs::start(&config)?;
        allow_many_connections();
        let mut wiring = Wiring::connect(&config, role == Role::Standalone, types).await?;
        if let Some(decorate) = decorate {
            wiring.decorate_store(decorate);
        }
        let shutdown = Shutdown::default();
        let stop_api = CancellationToken::new();
        tokio::spawn(listen_to_signals(shutdown.clone()));

        let (schedules, stop) = ((wiring.clone(), config.clone()), shutdown.drain.clone());
        tokio::spawn(async move { schedules.0.reconcile_schedules(&schedules.1, stop).await });
        let upkeep = tokio::spawn(wiring.upkeep(&config).run(shutdown.drain.clone()));
        if role != Role::Api {
            let (providers, until) = (wiring.providers(), shutdown.drain.clone());
            tokio::spawn(async move { providers.serve_lanes(until).await });
        }
        let inbox = wiring.inbox(&config).map(|inbox| tokio::spawn(inbox.run(shutdown.drain.clone())));
        let api = if role == Role::Worker {
            None
        } else {
            let listener = TcpListener::bind(config.listen).await.with_context(|| {
                format!(
                    "cannot listen on {}; is another process using it? LISTEN or --listen names another",
                    config.listen
                )
            })?;
            let address = listener.local_addr()?;
            if !address.ip().is_loopback() {
                tracing::warn!(%address, "there are no API keys yet: whoever reaches this address can submit and read tasks");
            }
            let serving = http_adapter::serve(
                wiring.use_cases(&config),
                api_config(&config),
                listener,
                stop_api.clone().cancelled_owned(),
            );
            banner(&config, role, &wiring, Some(address));
            Some(tokio::spawn(serving))
        };
        if role == Role::Worker {
            banner(&config, role, &wiring, None);
        }
        if let Some(most) = config.worker_max_memory.filter(|_| role != Role::Api) {
            tokio::spawn(memory::drain_above(most, shutdown.drain.clone()));
        }
        if role == Role::Api {
            shutdown.drain.cancelled().await;
        } else {
            // The API goes on while the worker drains, so that people can watch it.
            let worker = Worker::new(worker_config(&config), wiring.worker_ports());
            // A task of its own: the main thread would have to be woken for each of its steps.
            tokio::spawn(worker.run(shutdown.clone())).await.context("the worker's task ended early")?;
        }
        stop_api.cancel();
        if let Some(api) = api {
            let patience = config.shutdown_grace + Duration::from_secs(5);
            match tokio::time::timeout(patience, api).await {
                Ok(served) => {
                    served.context("the API's task ended early")?.context("the API could not be served")?;
                }
                Err(_) => tracing::warn!("some requests did not end in time"),
            }
        }
        upkeep.await.context("the upkeep's task ended early")?;
        if let Some(inbox) = inbox {
            inbox.await.context("the inbox's task ended early")?;
        }
        Ok(())
    }
}

/// Each reader of live events and each call of a model is a connection, and a shell allows a process some 1,000 open
/// files unless it asks for what the system allows.
fn allow_many_connections() {
    // As many as this product can have at once; Linux lets a system's administrator set less.
    const WANTED: u64 = 100_000;
    match rlimit::increase_nofile_limit(WANTED) {
        Ok(files) => tracing::debug!(files, "open files that this process may have"),
        Err(error) => tracing::warn!(%error, "the limit of open files stays as it is"),
    }
}

/// The first signal drains, the second stops hard.
async fn listen_to_signals(shutdown: Shutdown) {
    signal().await;
    tracing::info!("stopping: running tasks are finished or given back; a second signal stops at once");
    shutdown.drain.cancel();
    signal().await;
    shutdown.halt.cancel();
    tracing::warn!("stopped hard; what was running is taken over when its lease has run out");
    std::process::exit(130);
}

#[cfg(unix)]
async fn signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(error) => {
            tracing::warn!(%error, "SIGTERM cannot be handled, only Ctrl-C");
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

#[cfg(not(unix))]
async fn signal() {
    let _ = tokio::signal::ctrl_c().await;
}

fn banner(config: &Config, role: Role, wiring: &Wiring, address: Option<std::net::SocketAddr>) {
    let version = env!("CARGO_PKG_VERSION");
    let mut lines = vec![format!("Async AI Task Runner {version}")];
    if let Some(address) = address {
        lines.push(format!("  api       http://{address}{}", config.api_prefix));
        lines.push(format!("  docs      http://{address}/docs"));
    }
    for (what, text) in &wiring.banner {
        lines.push(format!("  {what:<9} {text}"));
    }
    if let (Some(address), Role::Standalone) = (address, role) {
        let url = format!("http://{address}{}/tasks", config.api_prefix);
        lines.push(format!("  try       curl -d '{{\"prompt\":\"Explain quantum computing\"}}' {url}"));
        if config.database == Database::Sqlite("data/task-runner.db".into()) {
            lines.push("  or        task-runner submit --wait \"Explain quantum computing\"".to_owned());
        }
    }
    // For people at a terminal; machines read the log.
    let _ = writeln!(std::io::stdout(), "{}\n", lines.join("\n"));
    let told =
        |part: &str| wiring.banner.iter().find(|(what, _)| *what == part).map(|(_, text)| text.as_str());
    tracing::info!(version, ?role, store = told("store"), order = told("order"), "started");
}

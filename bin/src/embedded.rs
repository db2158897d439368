//! The runner inside a program of your own: a worker, the upkeep and the use cases, without the HTTP API.

use anyhow::{Context, Result};
use application::{
    registry::TaskTypeSpec,
    tasks::Tasks,
    worker::{Shutdown, Worker},
};
use tokio::task::JoinHandle;

use crate::{
    config::{Config, Database},
    wiring::{Wiring, worker_config},
};

/// A runner that works in the background until it is stopped.
pub struct Embedded {
    tasks: Tasks,
    shutdown: Shutdown,
    running: Vec<JoinHandle<()>>,
}

impl Embedded {
    /// Connects, prepares the schema where this process has the database to itself, and starts to work. `types` are
    /// registered beside the built-in ones. Has to be called inside a tokio runtime.
    pub async fn start(config: Config, types: impl IntoIterator<Item = TaskTypeSpec>) -> Result<Self> {
        let alone = matches!(config.database, Database::Sqlite(_));
        let wiring = Wiring::connect(&config, alone, types.into_iter().collect()).await?;
        let shutdown = Shutdown::default();
        wiring.reconcile_schedules(&config, shutdown.drain.clone()).await;
        let mut running = vec![
            tokio::spawn(wiring.upkeep(&config).run(shutdown.drain.clone())),
            tokio::spawn(Worker::new(worker_config(&config), wiring.worker_ports()).run(shutdown.clone())),
        ];
        if let Some(inbox) = wiring.inbox(&config) {
            running.push(tokio::spawn(inbox.run(shutdown.drain.clone())));
        }
        Ok(Self { tasks: wiring.tasks(&config), shutdown, running })
    }

    /// What clients can do: submit, read, wait, watch, cancel.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Stops as a worker does on SIGTERM: running tasks are finished, or given back after the grace time.
    pub async fn stop(self) -> Result<()> {
        self.tasks.announced().await;
        self.shutdown.drain.cancel();
        for part in self.running {
            part.await.context("a part of the runner ended early")?;
        }
        Ok(())
    }
}

//! The product under test: servers, processes, histories, and what is known of them in the end.

use std::{
    ops::{Deref, DerefMut},
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result};
use contract_tests::servers::{PostgresServer, RedisServer};
use e2e_tests::{Program, product::free_port};
use sqlite_adapter::{SqliteOptions, SqliteStore};
use tempfile::TempDir;
use tokio::time::Instant;

use crate::{
    checker::{Drain, Evidence},
    client::Client,
    history,
    scale::Scale,
    transitions::Database,
};

/// What the product stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// API processes and workers, PostgreSQL and Redis.
    PostgresAndRedis,
    /// One process, one file.
    Sqlite,
}

/// How often a run looks at what it waits for.
const LOOK: Duration = Duration::from_millis(50);

/// Servers and a folder for one run. Processes are started on it; all of it ends with this value.
#[derive(Debug)]
pub struct Rig {
    /// What the product stands on.
    pub base: Base,
    /// Where its tasks are.
    pub database: Database,
    /// The lease of every worker.
    pub lease: Duration,
    /// Environment of every process; add to it before they are started.
    pub settings: Vec<(String, String)>,
    /// The ports of the APIs, one for each that is ever started.
    pub ports: Vec<u16>,
    /// The PostgreSQL server, where it is this run's own.
    pub postgres: Option<PostgresServer>,
    /// The Redis server, where it is this run's own.
    pub redis: Option<RedisServer>,
    histories: PathBuf,
    scale: Scale,
    /// Last, so that it outlives what writes into it.
    folder: TempDir,
}

/// A running process of the product.
#[derive(Debug)]
pub struct Node(Program);

impl Deref for Node {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.0
    }
}

impl DerefMut for Node {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.0
    }
}

impl Rig {
    /// Servers for a run: private and durable ones at full scale, else those that tests share.
    pub async fn start(scale: &Scale, base: Base) -> Result<Self> {
        Self::start_with(scale, base, scale.full).await
    }

    /// Servers that the run may crash, stop and flush.
    pub async fn start_private(scale: &Scale, base: Base) -> Result<Self> {
        Self::start_with(scale, base, true).await
    }

    async fn start_with(scale: &Scale, base: Base, private: bool) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("task-runner-faults-").tempdir()?;
        let histories = folder.path().join("histories");
        std::fs::create_dir(&histories)?;
        let lease = Duration::from_secs(scale.of(1, 2));
        let mut rig = Self {
            base,
            database: Database::Sqlite(folder.path().join("tasks.db")),
            lease,
            // The histories know the rig's own tasks only.
            settings: vec![("CLEAN_UP".to_owned(), "never".to_owned())],
            ports: vec![free_port()],
            postgres: None,
            redis: None,
            histories,
            scale: *scale,
            folder,
        };
        match base {
            Base::PostgresAndRedis => {
                if private {
                    rig.postgres = Some(PostgresServer::start_durable().context("PostgreSQL")?);
                    rig.redis = Some(RedisServer::start().context("Redis")?);
                }
                let url = match &rig.postgres {
                    Some(server) => server.create_database().await,
                    None => PostgresServer::shared().create_database().await,
                };
                let redis = rig.redis.as_ref().unwrap_or_else(|| RedisServer::shared()).url().to_owned();
                // Its name is nobody else's, so the keys are not either.
                rig.set("REDIS_PREFIX", url.rsplit('/').next().unwrap_or_default());
                rig.set("REDIS_URL", &redis);
                rig.set("DATABASE_URL", &url);
                rig.database = Database::Postgres(url);
            }
            Base::Sqlite => {
                let Database::Sqlite(path) = &rig.database else { unreachable!("it was set so above") };
                // Opening it makes the tables.
                let store = SqliteStore::open(path, SqliteOptions::default()).await?;
                store.close().await;
                let url = format!("sqlite://{}", path.display());
                rig.set("DATABASE_URL", &url);
            }
        }
        rig.database.watch().await.context("the triggers")?;
        rig.set("LEASE_SECONDS", &lease.as_secs_f64().to_string());
        rig.set("DATABASE_POOL_SIZE", "6");
        rig.set("REDIS_POOL_SIZE", "4");
        rig.set("SIMULATED_LATENCY", "0s");
        rig.set("RUST_LOG", "warn,application::worker::engine=info");
        let histories = rig.histories.display().to_string();
        rig.set(history::FOLDER_VARIABLE, &histories);
        Ok(rig)
    }

    /// Sets an environment variable of every process that is started from now on.
    pub fn set(&mut self, key: &str, value: &str) {
        self.settings.retain(|(known, _)| known != key);
        self.settings.push((key.to_owned(), value.to_owned()));
    }

    fn spawn(&self, role: &str, more: &[(&str, &str)]) -> Node {
        let mut settings = self.settings.clone();
        for (key, value) in more {
            settings.retain(|(known, _)| known != key);
            settings.push(((*key).to_owned(), (*value).to_owned()));
        }
        let mutant = self.scale.mutant.map(|mutant| format!("--mutant={}", mutant.name()));
        let arguments: Vec<&str> = std::iter::once(role).chain(mutant.as_deref()).collect();
        Node(Program::start("faults-node", &arguments, &settings, self.folder.path()))
    }

    /// The process that serves on the API's port of this number: an API, or the only process. A run that wants several
    /// adds ports first.
    pub async fn front(&self, number: usize) -> Node {
        let address = format!("127.0.0.1:{}", self.ports[number]);
        let role = match self.base {
            Base::PostgresAndRedis => "api",
            Base::Sqlite => "standalone",
        };
        let mut node = self.spawn(role, &[("LISTEN", &address)]);
        // It names its address once it listens there.
        node.writes(&format!("http://{address}/docs")).await;
        node
    }

    /// A worker, ready, with more settings than the others.
    pub async fn worker(&self, more: &[(&str, &str)]) -> Node {
        let mut node = self.spawn("worker", more);
        node.writes("worker ready").await;
        node
    }

    /// A client of all APIs.
    pub fn client(&self) -> Result<Client> {
        Client::new(&self.ports, &self.histories)
    }

    /// Waits until every task has ended, for so long at most.
    pub async fn drain(&self, limit: Duration) -> Result<Drain> {
        let started = Instant::now();
        loop {
            let left = self.database.unfinished().await?;
            let took = started.elapsed();
            if left == 0 {
                return Ok(Drain { took: Some(took), limit, left });
            }
            if took > limit {
                return Ok(Drain { took: None, limit, left });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// All that is known now.
    pub async fn evidence(&self, drain: Option<Drain>) -> Result<Evidence> {
        // Backwards: what is stored was written down before.
        let fates = self.database.fates().await?;
        let transitions = self.database.transitions().await?;
        let handlers = history::read(&self.histories, history::HANDLERS)?;
        let clients = history::read(&self.histories, history::CLIENTS)?;
        Ok(Evidence { clients, handlers, transitions, fates, drain })
    }
}

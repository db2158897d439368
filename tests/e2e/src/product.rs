//! The product on either base.

use std::net::TcpListener;

use contract_tests::servers::{PostgresServer, RedisServer};
use tempfile::TempDir;

use crate::{Api, Program};

/// What the product stands on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Base {
    /// One process, one file.
    Sqlite,
    /// An API process and workers.
    PostgresAndRedis,
}

/// A product that is to be started.
#[must_use]
#[derive(Debug)]
pub struct Setup {
    base: Base,
    settings: Vec<(String, String)>,
    file: Option<String>,
    workers: usize,
}

/// A running product.
#[derive(Debug)]
pub struct Product {
    base: Base,
    api: Api,
    /// The API process, or the only one.
    pub front: Program,
    /// The other processes.
    pub workers: Vec<Program>,
    /// What every process is started with.
    pub settings: Vec<(String, String)>,
    /// Where every process runs and logs, and the file of SQLite lies.
    pub folder: TempDir,
}

impl Base {
    /// A fresh product on this base, with one worker and a provider that takes no time.
    pub fn setup(self) -> Setup {
        let setup = Setup { base: self, settings: Vec::new(), file: None, workers: 1 };
        // Many products share one server in the tests.
        setup.set("SIMULATED_LATENCY", "0s").set("DATABASE_POOL_SIZE", "6").set("REDIS_POOL_SIZE", "4")
    }

    /// The same, started.
    pub async fn start(self) -> Product {
        self.setup().start().await
    }
}

impl Setup {
    /// Sets an environment variable of every process.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        set(&mut self.settings, key, value);
        self
    }

    /// The configuration file of every process.
    pub fn file(mut self, text: &str) -> Self {
        self.file = Some(text.to_owned());
        self
    }

    /// So many worker processes; SQLite has its one process all the same.
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Starts it and waits until it serves.
    pub async fn start(mut self) -> Product {
        let folder = tempfile::Builder::new().prefix("task-runner-e2e-").tempdir().expect("a folder");
        if let Some(text) = &self.file {
            std::fs::write(folder.path().join("task-runner.toml"), text).expect("a file");
        }
        match self.base {
            Base::Sqlite => set(&mut self.settings, "DATABASE_URL", "sqlite://tasks.db"),
            Base::PostgresAndRedis => {
                let named = |wanted: &str| self.settings.iter().find(|(key, _)| key == wanted);
                let database = match named("DATABASE_URL") {
                    Some((_, url)) => url.clone(),
                    None => PostgresServer::shared().create_database().await,
                };
                if named("REDIS_URL").is_none() {
                    set(&mut self.settings, "REDIS_URL", RedisServer::shared().url());
                }
                // Its name is nobody else's, so the keys are not either.
                let prefix = database.rsplit('/').next().unwrap_or_default().to_owned();
                set(&mut self.settings, "REDIS_PREFIX", &prefix);
                set(&mut self.settings, "DATABASE_URL", &database);
            }
        }
        let (front, api) = start_front(self.base, &self.settings, &folder).await;
        let mut product =
            Product { base: self.base, api, front, workers: Vec::new(), settings: self.settings, folder };
        for _ in 0..self.workers {
            product.add_worker().await;
        }
        product
    }
}

impl Product {
    /// A client of its API. A process that is started again has another port, and so needs another client.
    pub fn api(&self) -> Api {
        self.api.clone()
    }

    /// The first process that runs tasks.
    pub fn worker(&mut self) -> &mut Program {
        match self.base {
            Base::Sqlite => &mut self.front,
            Base::PostgresAndRedis => self.workers.first_mut().expect("there is a worker"),
        }
    }

    /// Starts another worker and waits until it is ready. On SQLite, where the one process is the worker, that does
    /// nothing.
    pub async fn add_worker(&mut self) {
        if self.base == Base::PostgresAndRedis {
            let name = "task-runner-worker";
            let mut worker = Program::start(name, &[], &self.settings, self.folder.path());
            worker.writes("worker ready").await;
            self.workers.push(worker);
        }
    }

    /// `kill -9` of every process.
    pub fn kill(&mut self) {
        self.front.kill();
        self.workers.iter_mut().for_each(Program::kill);
        self.workers.clear();
    }

    /// Starts what is gone: the first process, if it has ended, and a worker, if there is none.
    pub async fn start_again(&mut self) {
        if self.front.ended().is_some() {
            (self.front, self.api) = start_front(self.base, &self.settings, &self.folder).await;
        }
        self.workers.retain_mut(|worker| worker.ended().is_none());
        if self.workers.is_empty() {
            self.add_worker().await;
        }
    }

    /// All that its processes have written so far.
    pub fn logs(&self) -> String {
        let logs: Vec<_> = std::iter::once(&self.front).chain(&self.workers).map(Program::log).collect();
        logs.join("\n")
    }
}

/// A port of the loopback that was free just now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("it has an address").port()
}

async fn start_front(base: Base, settings: &[(String, String)], folder: &TempDir) -> (Program, Api) {
    let name = match base {
        Base::Sqlite => "task-runner",
        Base::PostgresAndRedis => "task-runner-api",
    };
    let mut tries = 5;
    loop {
        let port = free_port();
        let mut settings = settings.to_vec();
        set(&mut settings, "LISTEN", &format!("127.0.0.1:{port}"));
        let mut program = Program::start(name, &[], &settings, folder.path());
        let api = Api::new(port);
        // It names its address once it listens there.
        match program.try_writes(&format!("{}/docs", api.server)).await {
            Ok(()) => {
                if base == Base::Sqlite {
                    program.writes("worker ready").await;
                }
                api.get("/health").await;
                return (program, api);
            }
            // Another process was quicker to take the port.
            Err(_) if tries > 1 && program.log().contains("cannot listen") => tries -= 1,
            Err(why) => panic!("{why}"),
        }
    }
}

fn set(settings: &mut Vec<(String, String)>, key: &str, value: &str) {
    settings.retain(|(known, _)| known != key);
    settings.push((key.to_owned(), value.to_owned()));
}

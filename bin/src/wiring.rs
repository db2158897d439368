//! Which adapter stands behind which port.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use application::{
    fleet::{About, Workers},
    in_process::InProcessSignals,
    inbox::Inbox,
    ports::{Chance, Embedder, InboxStore, Order, Outbound, Signals, Store, TextGenerator},
    providers::{BatchLane, Budgets, Provider, Providers},
    queues::Queues,
    registry::{Registry, TaskTypeSpec},
    schedules::{Reconciled, Schedules},
    task_types::{self, Models, Publishing},
    tasks::{SubmitError, Tasks},
    upkeep::{Upkeep, UpkeepConfig},
    worker::{WorkerConfig, WorkerPorts},
};
use domain::{RetentionRules, Tenant, ai::Caller};
use http_adapter::{ApiConfig, UseCases};
use outbound_adapter::HttpOutbound;
use postgres_adapter::{PostgresOptions, PostgresStore};
use providers_adapter::{OpenAiGenerator, SimulatedGenerator};
use redis_adapter::{Redis, RedisOptions, RedisOrder, RedisSignals};
use sqlite_adapter::{SqliteOptions, SqliteStore};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{
        Config, ConfiguredSchedules, Database, ProviderConfig, ProviderKind, ProvidersConfig,
        without_password,
    },
    memory,
};

/// Adapters, ready to be given to use cases.
#[derive(Clone)]
pub struct Wiring {
    ports: WorkerPorts,
    providers: Arc<Providers>,
    /// Where the store has one: others write into the same database.
    inbox: Option<Arc<dyn InboxStore>>,
    /// One line about each dependency, for the start of a process.
    pub banner: Vec<(&'static str, String)>,
}

/// Random numbers from the operating system's generator.
struct Dice;

impl Chance for Dice {
    fn next(&self) -> f64 {
        rand::random()
    }
}

impl Wiring {
    /// Connects what the configuration names. `alone` says that this process is the whole product; only then can the
    /// store be SQLite. `more_types` are registered beside the built-in ones.
    pub async fn connect(config: &Config, alone: bool, more_types: Vec<TaskTypeSpec>) -> Result<Self> {
        let mut banner = Vec::new();
        let Adapters { store, order, signals, inbox } = adapters(config, alone, &mut banner).await?;
        let providers = Arc::new(providers(config, Arc::clone(&store))?);
        banner.push(("provider", providers.describe()));
        let (routes, chance): (_, Arc<dyn Chance>) = (Arc::new(config.routes.clone()), Arc::new(Dice));
        let outbound: Arc<dyn Outbound> = Arc::new(HttpOutbound::new(config.outbound.clone()));
        banner.push(("webhooks", outbound.describe()));
        let publishing = Publishing {
            outbound,
            store: Arc::clone(&store),
            order: order.clone(),
            signals: Arc::clone(&signals),
            routes: Arc::clone(&routes),
        };
        let models = Models {
            generator: Arc::clone(&providers) as _,
            embedder: Arc::clone(&providers) as _,
            store: Arc::clone(&store) as _,
            largest_result: config.max_result,
        };
        let types = task_types::built_in(&models).into_iter().chain(task_types::publishing(&publishing));
        let clean_up =
            task_types::clean_up(Arc::clone(&store) as _, retention(config), config.manual_retention);
        let types = types.chain([task_types::crash(config.demo_crash_aborts), clean_up]).chain(more_types);
        let registry = Arc::new(Registry::new(types)?.with(&config.types)?);
        let ports = WorkerPorts { store, order, signals, registry, routes, chance };
        Ok(Self { ports, providers, inbox, banner })
    }

    /// Puts a decorator between the store and whoever uses it from now on.
    pub fn decorate_store(&mut self, decorate: impl FnOnce(Arc<dyn Store>) -> Arc<dyn Store>) {
        self.ports.store = decorate(Arc::clone(&self.ports.store));
    }

    /// The clients' use cases.
    pub fn tasks(&self, config: &Config) -> Tasks {
        let WorkerPorts { store, order, signals, registry, routes, .. } = self.ports.clone();
        Tasks::new(store, order, signals, registry, routes)
            .with_waiting_limit(config.waiting_limit)
            .with_largest_input(config.max_input)
    }

    /// What time it is for the store.
    pub async fn store_clock(&self) -> Result<domain::Timestamp> {
        Ok(self.ports.store.ping().await?.now)
    }

    /// What the API stands for.
    pub fn use_cases(&self, config: &Config) -> UseCases {
        let tasks = self.tasks(config);
        let WorkerPorts { store, signals, routes, .. } = self.ports.clone();
        UseCases {
            schedules: Schedules::new(Arc::clone(&store), tasks.clone()),
            workers: Workers::new(Arc::clone(&store), Arc::clone(&signals)),
            budgets: Budgets::new(config.providers.budgets.clone(), Arc::clone(&store)),
            queues: Queues::new(store, signals, routes, tasks.clone()),
            tasks,
        }
    }

    /// What a worker needs.
    pub fn worker_ports(&self) -> WorkerPorts {
        self.ports.clone()
    }

    /// The inbox of this process, where the store has one.
    pub fn inbox(&self, config: &Config) -> Option<Inbox> {
        Some(Inbox::new(Arc::clone(self.inbox.as_ref()?), self.tasks(config)))
    }

    /// Whose batches are sent and read.
    pub fn providers(&self) -> Arc<Providers> {
        Arc::clone(&self.providers)
    }

    /// The upkeep of this process.
    pub fn upkeep(&self, config: &Config) -> Upkeep {
        let (lease, keep_failed) = (config.lease, config.manual_retention);
        Upkeep::new(self.ports.clone(), UpkeepConfig { lease, keep_failed, retention: retention(config) })
    }

    /// Brings the configuration's schedules into the store, through outages.
    pub async fn reconcile_schedules(&self, config: &Config, stop: CancellationToken) {
        let schedules = Schedules::new(Arc::clone(&self.ports.store), self.tasks(config));
        let ConfiguredSchedules { list, whole } = &config.schedules;
        loop {
            match schedules.reconcile(&Tenant::default(), list, *whole).await {
                Ok(Reconciled { changed, removed, left_alone }) => {
                    if changed + removed > 0 {
                        tracing::info!(changed, removed, "schedules brought to what the configuration says");
                    }
                    for name in left_alone {
                        tracing::debug!(schedule = %name, "kept as it was written over the API, not as configured");
                    }
                    return;
                }
                Err(SubmitError::Store(error)) => {
                    tracing::warn!(%error, "the configuration's schedules have to wait");
                }
                Err(error) => {
                    tracing::error!(%error, "the configuration's schedules cannot be kept");
                    return;
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(Duration::from_secs(5)) => {}
            }
        }
    }
}

/// How long tasks are kept.
fn retention(config: &Config) -> RetentionRules {
    RetentionRules { types: config.types.clone(), otherwise: config.retention }
}

/// How the worker of this configuration behaves.
pub fn worker_config(config: &Config) -> WorkerConfig {
    WorkerConfig {
        name: config.worker_name.clone(),
        queues: config.worker_queues.clone(),
        except: config.worker_exclude_queues.clone(),
        order: config.worker_queue_order.clone(),
        concurrency: config.worker_concurrency,
        lease: config.lease,
        grace: config.shutdown_grace,
        max_tasks: config.worker_max_tasks,
        time_caps: config.worker_time_caps,
        about: About {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            host: config.host.clone(),
            pid: std::process::id(),
            settings: config.worker_settings(),
            ..About::default()
        },
        memory: memory::used,
        largest_result: config.max_result,
    }
}

/// The API as configured.
pub fn api_config(config: &Config) -> ApiConfig {
    ApiConfig {
        prefix: config.api_prefix.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        allowed_hosts: config.allowed_hosts.clone(),
        max_connections: config.max_connections,
        max_requests: config.max_requests,
        // Room for the rest of a submission around its input.
        body_limit: config.max_input + config.max_input / 4,
        ..ApiConfig::default()
    }
}

/// The OpenAPI document of this configuration; needs nothing to run.
pub fn openapi_document(config: &Config) -> String {
    http_adapter::openapi_document(&api_config(config))
}

struct Adapters {
    store: Arc<dyn Store>,
    order: Option<Arc<dyn Order>>,
    signals: Arc<dyn Signals>,
    inbox: Option<Arc<dyn InboxStore>>,
}

async fn adapters(
    config: &Config,
    alone: bool,
    banner: &mut Vec<(&'static str, String)>,
) -> Result<Adapters> {
    match &config.database {
        Database::Sqlite(path) => {
            if !alone {
                bail!(
                    "DATABASE_URL names a SQLite file, which one process has to itself: run `task-runner`, which is API \
                     and worker in one, or give the API and the workers a postgres:// URL"
                );
            }
            if config.redis_url.is_some() {
                tracing::warn!("REDIS_URL is not used with SQLite");
            }
            let store = SqliteStore::open(path, SqliteOptions::default())
                .await
                .with_context(|| format!("cannot open {}", path.display()))?;
            let shown = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            banner.push(("store", format!("SQLite, {}", shown.display())));
            banner.push(("order", "SQLite".to_owned()));
            Ok(Adapters {
                store: Arc::new(store),
                order: None,
                signals: Arc::new(InProcessSignals::new()),
                inbox: None,
            })
        }
        Database::Postgres(url) => {
            if alone {
                PostgresStore::migrate(url).await?;
            }
            let store = Arc::new(PostgresStore::connect(url, &postgres_options(config)).await?);
            let inbox = Some(Arc::clone(&store) as Arc<dyn InboxStore>);
            banner.push(("store", format!("PostgreSQL, {}", without_password(url))));
            let Some(redis_url) = &config.redis_url else {
                banner.push((
                    "order",
                    "PostgreSQL (set REDIS_URL for order and news through Redis)".to_owned(),
                ));
                let signals = Arc::new(InProcessSignals::one_of_many());
                return Ok(Adapters { store, order: None, signals, inbox });
            };
            banner.push(("order", format!("Redis, {}", without_password(redis_url))));
            let redis = Redis::open(redis_options(config, redis_url))?;
            let (order, signals) = (RedisOrder::new(&redis), RedisSignals::start(&redis));
            Ok(Adapters { store, order: Some(Arc::new(order)), signals: Arc::new(signals), inbox })
        }
    }
}

/// PostgreSQL's options as configured.
fn postgres_options(config: &Config) -> PostgresOptions {
    PostgresOptions {
        max_connections: config.database_pool_size,
        connect_timeout: config.database_connect_timeout,
        statement_timeout: config.database_statement_timeout,
        ..PostgresOptions::default()
    }
}

fn redis_options(config: &Config, url: &str) -> RedisOptions {
    RedisOptions {
        prefix: config.redis_prefix.clone(),
        pool_size: config.redis_pool_size,
        ..RedisOptions::new(url)
    }
}

fn providers(config: &Config, store: Arc<dyn Store>) -> Result<Providers> {
    let providers: Vec<Provider> = config.providers.providers.iter().map(provider).collect::<Result<_>>()?;
    let ProvidersConfig { rules, budgets, .. } = &config.providers;
    Ok(Providers::new(providers, rules.clone(), budgets, store, Caller(rand::random()))?)
}

fn provider(config: &ProviderConfig) -> Result<Provider> {
    let mut batch = None;
    let (generator, embedder): (Arc<dyn TextGenerator>, Arc<dyn Embedder>) = match &config.kind {
        ProviderKind::Simulated(latency) => {
            let simulated = Arc::new(SimulatedGenerator::new(*latency));
            (Arc::clone(&simulated) as _, simulated)
        }
        ProviderKind::OpenAi(server) => {
            let server = OpenAiGenerator::new(server.clone());
            let server = Arc::new(server.with_context(|| format!("the provider {}", config.name))?);
            batch = config.batch.map(|terms| BatchLane { api: Arc::clone(&server) as _, terms });
            (Arc::clone(&server) as _, server)
        }
    };
    // Made-up answers wait for nobody, unless somebody wants to see how that is.
    let counts = !config.quotas.is_empty() || matches!(config.kind, ProviderKind::OpenAi(_));
    Ok(Provider {
        name: config.name.clone(),
        generator,
        embedder,
        models: config.models.clone(),
        prices: config.prices.clone(),
        in_flight: config.in_flight,
        batch,
        quotas: counts.then(|| config.quotas.clone()),
    })
}

//! Configuration: defaults < file < environment (and `.env`) < flags. One table of keys serves all binaries.

use std::{
    collections::BTreeMap,
    fmt::Display,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use domain::{
    LeaseTerms, QueueName, QueueOrder, QueueSettings, Retention, Route, Routes, TimeCaps, TypeRules,
    WorkerName,
};
use outbound_adapter::OutboundConfig;

use keys::ALIASES;
pub use keys::{KEYS, Key};
pub use providers::{ProviderConfig, ProviderKind, ProvidersConfig};
use queues::read_queues;
pub use schedules::ConfiguredSchedules;
pub use values::{parse_duration, parse_size, without_password};

mod keys;
mod outbound;
mod providers;
mod queues;
mod schedules;
mod types;
mod values;
mod worker;

/// The file that is read when it exists and `--config` names no other.
pub const DEFAULT_FILE: &str = "task-runner.toml";

/// Values by key, with where each came from.
#[derive(Clone, Default)]
pub struct Layers {
    values: BTreeMap<&'static str, (String, String)>,
    routes: Option<Vec<Route>>,
    queues: BTreeMap<QueueName, QueueSettings>,
    types: TypeRules,
    schedules: schedules::ConfiguredSchedules,
    tables: providers::Tables,
    /// Variables whose names only the tables know.
    environment: BTreeMap<String, Hidden>,
}

/// Anything may stand in the environment.
#[derive(Clone)]
struct Hidden(String);

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

/// What the process was started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where tasks are kept.
    pub database: Database,
    /// PostgreSQL's pool.
    pub database_pool_size: u32,
    /// Patience for a connection.
    pub database_connect_timeout: Duration,
    /// Patience for a statement.
    pub database_statement_timeout: Duration,
    /// Order and news.
    pub redis_url: Option<String>,
    /// Redis' pool.
    pub redis_pool_size: u32,
    /// Redis' keys.
    pub redis_prefix: String,
    /// The API's address.
    pub listen: std::net::SocketAddr,
    /// The API's routes.
    pub api_prefix: String,
    /// Further Host names.
    pub allowed_hosts: Vec<String>,
    /// Connections to one API process at once; more wait.
    pub max_connections: usize,
    /// Most requests under way.
    pub max_requests: usize,
    /// Most waiting tasks of a tenant.
    pub waiting_limit: Option<u64>,
    /// Who answers.
    pub providers: ProvidersConfig,
    /// Calls to endpoints of users'.
    pub outbound: OutboundConfig,
    /// The worker's name.
    pub worker_name: WorkerName,
    /// The worker's queues.
    pub worker_queues: Vec<QueueName>,
    /// In which order the worker serves its queues.
    pub worker_queue_order: QueueOrder,
    /// Queues that the worker does not serve.
    pub worker_exclude_queues: Vec<QueueName>,
    /// The worker's slots.
    pub worker_concurrency: usize,
    /// The longest that attempts may take on the worker.
    pub worker_time_caps: TimeCaps,
    /// The machine's name.
    pub host: String,
    /// After how many tasks the worker drains.
    pub worker_max_tasks: Option<u64>,
    /// Above how many bytes the worker drains.
    pub worker_max_memory: Option<u64>,
    /// The worker's lease.
    pub lease: LeaseTerms,
    /// The worker's patience at the end.
    pub shutdown_grace: Duration,
    /// How long failed tasks wait for a person.
    pub manual_retention: Option<Duration>,
    /// How long other ended tasks are kept.
    pub retention: Retention,
    /// What holds for some types instead of what their code says.
    pub types: TypeRules,
    /// Schedules that the configuration brings.
    pub schedules: ConfiguredSchedules,
    /// The largest input, in bytes.
    pub max_input: usize,
    /// The largest result, in bytes.
    pub max_result: usize,
    /// Whether `demo.crash` may end a worker process.
    pub demo_crash_aborts: bool,
    /// Which queue a type goes to.
    pub routes: Routes,
    /// JSON lines instead of text.
    pub json_logs: bool,
    /// The log filter.
    pub log_filter: String,
}

/// Where tasks are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Database {
    /// One process, one file.
    Sqlite(PathBuf),
    /// Any number of processes; the URL, with its password.
    Postgres(String),
}

impl std::fmt::Debug for Layers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map()
            .entries(self.show().into_iter().map(|(key, value, source)| (key.name, (value, source))))
            .finish()
    }
}

impl Layers {
    /// Reads the file (`named`, else [`DEFAULT_FILE`] where it exists), `.env` and the environment.
    pub fn read(named: Option<&Path>) -> Result<Self> {
        let mut layers = Self::default();
        let file = named
            .map(Path::to_path_buf)
            .or_else(|| Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists()));
        if let Some(file) = file {
            let text =
                std::fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            layers.add_file(&text, &file.display().to_string())?;
        }
        let dot_env: Vec<(String, String)> = match dotenvy::dotenv_iter() {
            Ok(all) => all.collect::<Result<_, _>>().context("cannot read .env")?,
            Err(dotenvy::Error::Io(error)) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error).context("cannot read .env"),
        };
        layers.add_environment(dot_env, ".env");
        layers.add_environment(
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?))),
            "the environment",
        );
        Ok(layers)
    }

    fn add_file(&mut self, text: &str, name: &str) -> Result<()> {
        let table: toml::Table = toml::from_str(text).with_context(|| format!("{name} is not valid TOML"))?;
        for (found, value) in table {
            if found == "routes" {
                self.routes = Some(read_routes(value).with_context(|| format!("in {name}"))?);
                continue;
            }
            if found == "queues" {
                self.queues = read_queues(value).with_context(|| format!("in {name}"))?;
                continue;
            }
            if found == "schedules" {
                self.schedules = schedules::read(value).with_context(|| format!("in {name}"))?;
                continue;
            }
            if found == "types" {
                self.types = types::read(value).with_context(|| format!("in {name}"))?;
                continue;
            }
            if found == "providers" {
                self.tables.add_providers(value).with_context(|| format!("in {name}"))?;
                continue;
            }
            if found == "models" {
                self.tables.add_models(value).with_context(|| format!("in {name}"))?;
                continue;
            }
            if found == "budgets" {
                self.tables.add_budgets(value).with_context(|| format!("in {name}"))?;
                continue;
            }
            let Some(known) = KEYS.iter().find(|key| key.name == found) else {
                let known: Vec<_> = KEYS.iter().map(|key| key.name).collect();
                let lists = "routes, queues, types, schedules, providers, models, budgets";
                bail!("{name}: unknown key {found:?}; known are {lists}, {}", known.join(", "));
            };
            let value = match value {
                toml::Value::String(text) => text,
                toml::Value::Integer(number) => number.to_string(),
                toml::Value::Float(number) => number.to_string(),
                toml::Value::Boolean(value) => value.to_string(),
                toml::Value::Array(items) if items.iter().all(toml::Value::is_str) => {
                    items.iter().filter_map(toml::Value::as_str).collect::<Vec<_>>().join(",")
                }
                other => bail!("{name}: {found} is a {}; write it as text or a number", other.type_str()),
            };
            self.values.insert(known.name, (value, name.to_owned()));
        }
        Ok(())
    }

    fn add_environment(&mut self, variables: impl IntoIterator<Item = (String, String)>, source: &str) {
        for (name, value) in variables {
            // What web frameworks understand; the filter itself says more.
            if name == "DEBUG" && matches!(value.as_str(), "1" | "true" | "True") {
                let debug = ("debug".to_owned(), format!("DEBUG in {source}"));
                self.values.entry("rust_log").or_insert(debug);
            }
            let alias = ALIASES.iter().find(|(alias, _)| *alias == name).map(|(_, key)| *key);
            let key = KEYS.iter().find(|key| Some(key.name) == alias || key.name.to_uppercase() == name);
            if let Some(key) = key
                && !value.is_empty()
            {
                self.values.insert(key.name, (value, source.to_owned()));
                continue;
            }
            self.environment.insert(name, Hidden(value));
        }
    }

    /// Adds what was given on the command line.
    pub fn flag(&mut self, name: &'static str, value: Option<impl Display>) {
        if let Some(value) = value {
            self.values.insert(name, (value.to_string(), "the command line".to_owned()));
        }
    }

    /// Each key with its value as shown to people and its source.
    pub fn show(&self) -> Vec<(Key, String, String)> {
        KEYS.iter()
            .map(|key| {
                let (value, source) = self
                    .values
                    .get(key.name)
                    .cloned()
                    .unwrap_or((key.default.to_owned(), "default".to_owned()));
                let value = if key.secret && !value.is_empty() {
                    "(set)".to_owned()
                } else {
                    without_password(&value)
                };
                (*key, value, source)
            })
            .collect()
    }

    fn text(&self, name: &str) -> &str {
        let default = KEYS.iter().find(|key| key.name == name).map_or("", |key| key.default);
        self.values.get(name).map_or(default, |(value, _)| value).trim()
    }

    fn optional(&self, name: &str) -> Option<String> {
        Some(self.text(name)).filter(|text| !text.is_empty()).map(str::to_owned)
    }

    fn bad(&self, name: &str, why: impl Display) -> anyhow::Error {
        let source = self.values.get(name).map_or("default", |(_, source)| source);
        let secret = KEYS.iter().any(|key| key.name == name && key.secret);
        let value = if secret { "(hidden)".to_owned() } else { without_password(self.text(name)) };
        anyhow!("{} = {value:?} (from {source}): {why}", name.to_uppercase())
    }

    fn parse<T: FromStr<Err: Display>>(&self, name: &str) -> Result<T> {
        self.text(name).parse().map_err(|error| self.bad(name, error))
    }

    fn number<T: FromStr<Err: Display> + PartialOrd + Display>(
        &self,
        name: &str,
        least: T,
        most: T,
    ) -> Result<T> {
        let value: T = self.parse(name)?;
        if value < least || value > most {
            return Err(self.bad(name, format!("not between {least} and {most}")));
        }
        Ok(value)
    }

    /// A number from 1 on; empty for none.
    fn optional_number(&self, name: &str) -> Result<Option<u64>> {
        self.optional(name).map(|_| self.number(name, 1, u64::MAX)).transpose()
    }

    fn duration(&self, name: &str) -> Result<Duration> {
        parse_duration(self.text(name)).map_err(|why| self.bad(name, why))
    }

    /// Checks everything.
    pub fn config(&self) -> Result<Config> {
        let fallback = self.parse::<QueueName>("default_queue")?;
        let routes = self.routes.clone().unwrap_or_else(|| Routes::default().rules().to_vec());
        let lease = Duration::try_from_secs_f64(self.parse::<f64>("lease_seconds")?)
            .ok()
            .and_then(LeaseTerms::new)
            .ok_or_else(|| self.bad("lease_seconds", "not between 1 and 3600"))?;
        let api_prefix = self.text("api_prefix").trim_end_matches('/').to_owned();
        if !api_prefix.starts_with('/')
            || api_prefix.chars().any(|c| !(c.is_ascii_alphanumeric() || "/_-.".contains(c)))
        {
            return Err(self.bad("api_prefix", "not a path such as /api/v1"));
        }
        let json_logs = match self.text("log_format") {
            "text" => false,
            "json" => true,
            _ => return Err(self.bad("log_format", "neither text nor json")),
        };
        let (worker_queues, worker_exclude_queues, worker_queue_order) = self.served_queues()?;
        Ok(Config {
            database: self.database()?,
            database_pool_size: self.number("database_pool_size", 2, 1000)?,
            database_connect_timeout: self.duration("database_connect_timeout")?,
            database_statement_timeout: self.duration("database_statement_timeout")?,
            redis_url: self.optional("redis_url"),
            redis_pool_size: self.number("redis_pool_size", 1, 1000)?,
            redis_prefix: self.text("redis_prefix").to_owned(),
            listen: self
                .parse("listen")
                .map_err(|error| anyhow!("{error}; give address:port, such as 127.0.0.1:8000"))?,
            api_prefix,
            allowed_hosts: self.list("allowed_hosts"),
            max_connections: self.number("max_connections", 1, 1_000_000)?,
            max_requests: self.number("max_requests", 1, 1_000_000)?,
            waiting_limit: self.optional_number("waiting_limit")?,
            providers: self.providers()?,
            outbound: self.outbound()?,
            worker_name: self.worker_name()?,
            worker_queues,
            worker_exclude_queues,
            worker_queue_order,
            worker_concurrency: self.number("worker_concurrency", 1, 1_000_000)?,
            worker_time_caps: self.worker_time_caps()?,
            host: worker::host(),
            worker_max_tasks: self.optional_number("worker_max_tasks")?,
            worker_max_memory: self
                .optional("worker_max_memory")
                .map(|text| parse_size(&text).map_err(|why| self.bad("worker_max_memory", why)))
                .transpose()?,
            lease,
            manual_retention: self
                .optional("manual_retention")
                .map(|_| self.duration("manual_retention"))
                .transpose()?,
            retention: types::retention(self.text("retention")).map_err(|why| self.bad("retention", why))?,
            types: self.types.clone(),
            schedules: schedules::with_clean_up(self.schedules.clone(), self.text("clean_up"))
                .map_err(|why| self.bad("clean_up", why))?,
            max_input: self.size("max_input")?,
            max_result: self.size("max_result")?,
            demo_crash_aborts: self.parse("demo_crash_aborts")?,
            shutdown_grace: self.duration("shutdown_grace")?,
            routes: Routes::new(routes, fallback).with_settings(self.queues.clone()),
            json_logs,
            log_filter: self.text("rust_log").to_owned(),
        })
    }

    fn list(&self, name: &str) -> Vec<String> {
        self.text(name).split(',').map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
    }

    fn database(&self) -> Result<Database> {
        let url = self.text("database_url");
        let (scheme, rest) = url.split_once(':').unwrap_or(("", url));
        match scheme.split('+').next().unwrap_or_default() {
            "sqlite" => {
                let path = rest.trim_start_matches("//");
                let path = path.split('?').next().unwrap_or_default();
                if path.is_empty() {
                    return Err(self.bad("database_url", "names no file; write sqlite://data/task-runner.db"));
                }
                Ok(Database::Sqlite(PathBuf::from(path)))
            }
            "postgres" | "postgresql" => Ok(Database::Postgres(url.to_owned())),
            _ => Err(self.bad("database_url", "starts with neither postgres:// nor sqlite://")),
        }
    }

    /// A variable of the environment that the file names.
    fn variable(&self, name: &str) -> Option<&str> {
        self.environment.get(name).map(|Hidden(value)| value.as_str()).filter(|value| !value.is_empty())
    }
}

fn read_routes(value: toml::Value) -> Result<Vec<Route>> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Rule {
        pattern: String,
        queue: String,
    }
    let rules: Vec<Rule> = value.try_into().context("routes: a list of { pattern, queue } is expected")?;
    rules.into_iter().map(|rule| Ok(Route::new(rule.pattern, QueueName::new(rule.queue)?)?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(file: &str, environment: &[(&str, &str)]) -> Result<Layers> {
        let mut layers = Layers::default();
        layers.add_file(file, "test.toml")?;
        layers
            .add_environment(environment.iter().map(|(k, v)| ((*k).into(), (*v).into())), "the environment");
        Ok(layers)
    }

    #[test]
    fn the_defaults_are_a_standalone_product() {
        let config = Layers::default().config().expect("valid");
        assert_eq!(config.database, Database::Sqlite("data/task-runner.db".into()));
        assert!(config.listen.ip().is_loopback());
        assert!(matches!(config.providers.providers[0].kind, ProviderKind::Simulated(_)));
        assert_eq!(config.routes, Routes::default());
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let mut layers = layers("worker_concurrency = 1\nlease_seconds = 20", &[("WORKER_CONCURRENCY", "2")])
            .expect("valid");
        assert_eq!(layers.config().expect("valid").worker_concurrency, 2);
        assert_eq!(layers.config().expect("valid").lease.length(), Duration::from_secs(20));
        layers.flag("worker_concurrency", Some(3));
        assert_eq!(layers.config().expect("valid").worker_concurrency, 3);
    }

    #[test]
    fn mistakes_are_named_with_value_and_source() {
        let error =
            layers("", &[("WORKER_CONCURRENCY", "many")]).expect("read").config().expect_err("not a number");
        let text = error.to_string();
        assert!(
            text.contains("WORKER_CONCURRENCY") && text.contains("many") && text.contains("environment"),
            "{text}"
        );
        let text = layers("databse_url = 'x'", &[]).expect_err("a typo").to_string();
        assert!(text.contains("databse_url") && text.contains("test.toml"), "{text}");
    }

    #[test]
    fn passwords_and_keys_are_not_shown() {
        let error = layers("", &[("DATABASE_URL", "mysql://me:secret@db/x")])
            .expect("read")
            .config()
            .expect_err("mysql");
        assert!(!error.to_string().contains("secret"), "{error}");
        let layers = layers("", &[("OPENAI_API_KEY", "sk-secret")]).expect("read");
        assert!(layers.show().iter().all(|(_, value, _)| !value.contains("secret")));
        assert!(!format!("{:?}", layers.config().expect("valid")).contains("secret"));
    }

    #[test]
    fn debug_in_the_environment_logs_more_unless_a_filter_is_named() {
        let filter = |environment: &[(&str, &str)]| {
            layers("", environment).expect("read").config().expect("valid").log_filter
        };
        assert_eq!(filter(&[("DEBUG", "true")]), "debug");
        assert_eq!(filter(&[("DEBUG", "true"), ("RUST_LOG", "warn")]), "warn");
        assert_eq!(filter(&[("RUST_LOG", "warn"), ("DEBUG", "1")]), "warn");
        assert_eq!(filter(&[("DEBUG", "express:*")]), "info");
    }

    #[test]
    fn the_workers_time_limits_fit_each_other() {
        let caps = |environment: &[(&str, &str)]| layers("", environment).expect("read").config();
        let both = caps(&[("WORKER_SOFT_TIME_LIMIT", "240"), ("WORKER_TIME_LIMIT", "5m")]).expect("valid");
        assert_eq!(both.worker_time_caps.soft, Some(Duration::from_secs(240)));
        assert_eq!(both.worker_time_caps.hard, Some(Duration::from_secs(300)));
        for (soft, hard) in [("300", "240"), ("0", "1"), ("soon", "1")] {
            assert!(caps(&[("WORKER_SOFT_TIME_LIMIT", soft), ("WORKER_TIME_LIMIT", hard)]).is_err());
        }
    }

    #[test]
    fn routes_come_from_the_file() {
        let file = "default_queue = 'rest'\n[[routes]]\npattern = 'ai.*'\nqueue = 'slow'";
        let routes = layers(file, &[]).expect("valid").config().expect("valid").routes;
        assert_eq!(routes.queue_for(&domain::TaskType::new("ai.x").expect("valid")).as_str(), "slow");
        assert_eq!(routes.queue_for(&domain::TaskType::new("demo.x").expect("valid")).as_str(), "rest");
    }

    #[test]
    fn other_spellings_of_postgres_are_read() {
        for url in ["postgres://h/d", "postgresql://h/d", "postgresql+asyncpg://h/d"] {
            let config = layers("", &[("DATABASE_URL", url)]).expect("read").config().expect("valid");
            assert_eq!(config.database, Database::Postgres(url.to_owned()));
        }
    }

    #[test]
    fn the_documented_keys_are_these() {
        let document = include_str!("../../docs/configuration.md");
        let mut table = String::from("| key | default | meaning |\n|---|---|---|\n");
        for key in KEYS {
            table.push_str(
                &format!("| `{}` | `{}` | {} |\n", key.name, key.default, key.meaning).replace("``", ""),
            );
        }
        assert!(document.contains(&table), "docs/configuration.md should contain:\n\n{table}");
    }
}

//! The product as it is measured: release binaries on private, durable servers, with log level `warn`.

use std::{net::SocketAddr, path::Path, str::FromStr, time::Duration};

use anyhow::{Context as _, Result, bail};
use application::ports::TaskStore as _;
use contract_tests::{
    fixtures,
    servers::{PostgresServer, RedisServer},
};
use domain::{Json, NewTask, Routes, TaskType};
use e2e_tests::{Program, product::free_port};
use futures_util::{TryStreamExt as _, stream};
use postgres_adapter::{PostgresOptions, PostgresStore};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, sleep},
};

use crate::{
    PATIENCE,
    load::{self, Connection},
    process,
};

/// How often a row looks at what it waits for.
pub(crate) const LOOK: Duration = Duration::from_millis(2);
/// The same where the looking would cost the server something.
pub(crate) const GLANCE: Duration = Duration::from_millis(5);
/// How long a process may take to start.
const START: Duration = Duration::from_secs(30);
/// Lines of a process's log that are shown.
const COMPLAINTS: usize = 3;
/// Tasks of one statement when the store is filled.
const BATCH: usize = 500;

/// Whether Redis keeps the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// As in the guide.
    Redis,
    /// Everything from PostgreSQL.
    PostgresAlone,
}

impl Order {
    /// For settings of lines.
    pub fn text(self) -> &'static str {
        match self {
            Self::Redis => "with Redis",
            Self::PostgresAlone => "without Redis",
        }
    }
}

/// The servers of a run.
#[derive(Debug)]
pub struct Rig {
    postgres: PostgresServer,
    redis: RedisServer,
    /// Where processes run and log, and SQLite's file lies.
    folder: TempDir,
}

/// A fresh database with the product's schema.
#[derive(Debug)]
pub struct Database {
    /// Where it is.
    pub url: String,
    name: String,
}

/// A process that answers over HTTP.
#[derive(Debug)]
pub struct Front {
    /// The process.
    pub program: Program,
    /// Where it listens.
    pub server: SocketAddr,
    /// From its start until it was healthy.
    pub ready_after: Duration,
}

/// A worker process.
#[derive(Debug)]
pub struct WorkerProcess {
    /// The process.
    pub program: Program,
    /// From its start until it was registered.
    pub ready_after: Duration,
}

impl Rig {
    /// Starts the servers.
    pub fn start() -> Result<Self> {
        Ok(Self {
            postgres: PostgresServer::start_durable_with(&["max_connections=400"]).context("PostgreSQL")?,
            redis: RedisServer::start().context("Redis")?,
            folder: tempfile::Builder::new().prefix("task-runner-bench-").tempdir()?,
        })
    }

    /// The maintenance database.
    pub fn postgres_url(&self) -> &str {
        self.postgres.url()
    }

    /// Where the processes run.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A fresh database; those of earlier repetitions are removed, and the server's memory is written out, so that each
    /// repetition begins alike.
    pub async fn database(&self) -> Result<Database> {
        let mut control = PgConnection::connect(self.postgres.url()).await?;
        let old: Vec<String> =
            sqlx::query_scalar("SELECT datname::text FROM pg_database WHERE datname LIKE 'test\\_%'")
                .fetch_all(&mut control)
                .await?;
        for name in old {
            let drop = format!("DROP DATABASE {name} WITH (FORCE)");
            sqlx::raw_sql(AssertSqlSafe(drop)).execute(&mut control).await?;
        }
        self.forget_order().await?;
        let url = self.postgres.create_database().await;
        sqlx::raw_sql("CHECKPOINT").execute(&mut control).await?;
        control.close().await?;
        let name = url.rsplit('/').next().unwrap_or_default().to_owned();
        Ok(Database { url, name })
    }

    /// Empties Redis; no process of the product may be running.
    pub async fn forget_order(&self) -> Result<()> {
        redis_command(self.redis.port(), "FLUSHALL").await.map(|_| ())
    }

    fn settings(&self, database: &Database, order: Order, more: &[(&str, &str)]) -> Vec<(String, String)> {
        let mut settings = vec![("DATABASE_URL", &*database.url), ("RUST_LOG", "warn")];
        if order == Order::Redis {
            settings.extend([("REDIS_URL", self.redis.url()), ("REDIS_PREFIX", &*database.name)]);
        }
        let mut settings: Vec<_> =
            settings.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        for (key, value) in more {
            settings.retain(|(known, _)| known != key);
            settings.push(((*key).to_owned(), (*value).to_owned()));
        }
        settings
    }

    /// The API's process, healthy.
    pub async fn api(&self, database: &Database, order: Order) -> Result<Front> {
        self.front("task-runner-api", &[], self.settings(database, order, &[])).await
    }

    /// The same, which also knows the task types that measure.
    pub async fn measuring_api(
        &self,
        database: &Database,
        order: Order,
        more: &[(&str, &str)],
    ) -> Result<Front> {
        self.front("bench-node", &["api"], self.settings(database, order, more)).await
    }

    /// The embedded product on a SQLite file.
    pub async fn standalone(&self, file: &Path) -> Result<Front> {
        let url = format!("sqlite://{}", file.display());
        let settings = [("DATABASE_URL", &*url), ("RUST_LOG", "warn")];
        let settings = settings.map(|(key, value)| (key.to_owned(), value.to_owned()));
        self.front("task-runner", &[], settings.to_vec()).await
    }

    async fn front(
        &self,
        name: &str,
        arguments: &[&str],
        mut settings: Vec<(String, String)>,
    ) -> Result<Front> {
        let port = free_port();
        settings.push(("LISTEN".to_owned(), format!("127.0.0.1:{port}")));
        let server = load::loopback(port);
        let began = Instant::now();
        let mut program = Program::start(name, arguments, &settings, self.folder.path());
        loop {
            // Nobody listens yet, or what it stands on is not there yet.
            if let Ok(mut connection) = Connection::open(server).await
                && let Ok((200, _)) = connection.ask(&load::get("/api/v1/health")).await
            {
                return Ok(Front { program, server, ready_after: began.elapsed() });
            }
            alive(&mut program, name, began)?;
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// A worker's process, registered.
    pub async fn worker(
        &self,
        database: &Database,
        order: Order,
        more: &[(&str, &str)],
    ) -> Result<WorkerProcess> {
        self.start_worker("task-runner-worker", &[], database, order, more).await
    }

    /// The same, which also knows the task types that measure.
    pub async fn measuring_worker(
        &self,
        database: &Database,
        order: Order,
        more: &[(&str, &str)],
    ) -> Result<WorkerProcess> {
        self.start_worker("bench-node", &["worker"], database, order, more).await
    }

    async fn start_worker(
        &self,
        name: &str,
        arguments: &[&str],
        database: &Database,
        order: Order,
        more: &[(&str, &str)],
    ) -> Result<WorkerProcess> {
        let settings = self.settings(database, order, more);
        let mut connection = database.connect().await?;
        let count = "SELECT count(*) FROM worker";
        let before = number(&mut connection, count).await?;
        let began = Instant::now();
        let mut program = Program::start(name, arguments, &settings, self.folder.path());
        while number(&mut connection, count).await? == before {
            alive(&mut program, name, began)?;
            sleep(Duration::from_millis(1)).await;
        }
        Ok(WorkerProcess { program, ready_after: began.elapsed() })
    }

    /// What the servers have used so far.
    pub async fn spent(&self, connection: &mut PgConnection) -> Result<Spent> {
        let backend = u32::try_from(number(connection, "SELECT pg_backend_pid()::bigint").await?)?;
        let redis = redis_command(self.redis.port(), "INFO server").await?;
        let redis = info::<u32>(&redis, "process_id").context("Redis does not tell its process id")?;
        Ok(Spent {
            wal: number(connection, "SELECT (pg_current_wal_lsn() - '0/0'::pg_lsn)::bigint").await?,
            postgres: process::processor_of_all(process::parent(backend)?)?,
            redis: process::processor(redis)?,
        })
    }

    /// Redis' version.
    pub async fn redis_version(&self) -> Result<String> {
        let text = redis_command(self.redis.port(), "INFO server").await?;
        info(&text, "redis_version").context("Redis does not tell its version")
    }

    /// Bytes that Redis holds.
    pub async fn redis_memory(&self) -> Result<i64> {
        let text = redis_command(self.redis.port(), "INFO memory").await?;
        info(&text, "used_memory").context("Redis does not tell its memory")
    }
}

/// What servers have used since they started.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    /// Bytes of the write-ahead log.
    pub wal: i64,
    /// Processor time of PostgreSQL in seconds.
    pub postgres: f64,
    /// Processor time of Redis in seconds.
    pub redis: f64,
}

impl Database {
    /// A connection of one's own.
    pub async fn connect(&self) -> Result<PgConnection> {
        PgConnection::connect(&self.url).await.with_context(|| format!("no connection to {}", self.name))
    }

    /// Stores waiting tasks through the product's own store, as an API would; answers the highest number.
    pub async fn fill(&self, task: &NewTask, count: usize) -> Result<i64> {
        let options = PostgresOptions { max_connections: 4, ..PostgresOptions::default() };
        let store = &PostgresStore::connect(&self.url, &options).await?;
        stream::iter((0..count.div_ceil(BATCH)).map(|batch| Ok(batch * BATCH)))
            .try_for_each_concurrent(4, async |done| {
                let tasks = vec![task.clone(); BATCH.min(count - done)];
                store.submit(&tasks).await.map(|_| ())
            })
            .await?;
        let mut connection = self.connect().await?;
        number(&mut connection, "SELECT coalesce(max(id), 0) FROM task").await
    }

    /// Waits until every task has ended; answers when that was seen, in microseconds since 1970 by the server's clock.
    /// `last` is the highest number: as long as it is there, looking costs next to nothing.
    pub async fn drained(&self, connection: &mut PgConnection, last: i64) -> Result<i64> {
        self.drained_after(connection, 0, last).await
    }

    /// The same for tasks with numbers above `first`.
    pub async fn drained_after(&self, connection: &mut PgConnection, first: i64, last: i64) -> Result<i64> {
        let began = Instant::now();
        self.gone(connection, last).await?;
        loop {
            let (left, now): (bool, i64) = sqlx::query_as(
                "SELECT EXISTS (SELECT FROM live WHERE id > $1),
                    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint",
            )
            .bind(first)
            .fetch_one(&mut *connection)
            .await?;
            if !left {
                return Ok(now);
            }
            in_time(began, "the tasks have not all ended")?;
            sleep(LOOK).await;
        }
    }

    /// Waits until this task has ended.
    pub async fn gone(&self, connection: &mut PgConnection, task: i64) -> Result<()> {
        let began = Instant::now();
        let there = "SELECT EXISTS (SELECT FROM live WHERE id = $1)";
        while sqlx::query_scalar(there).bind(task).fetch_one(&mut *connection).await? {
            in_time(began, "the last task has not ended")?;
            sleep(GLANCE).await;
        }
        Ok(())
    }

    /// Fails unless so many tasks have completed and none has ended in another way.
    pub async fn all_completed(&self, count: usize) -> Result<()> {
        let mut connection = self.connect().await?;
        let (completed, ended): (i64, i64) =
            sqlx::query_as("SELECT count(*) FILTER (WHERE status = 'COMPLETED'), count(*) FROM outcome")
                .fetch_one(&mut connection)
                .await?;
        if (completed, ended) != (i64::try_from(count)?, i64::try_from(count)?) {
            bail!("{completed} of {count} tasks have completed, {ended} have ended");
        }
        Ok(())
    }
}

pub(crate) fn in_time(began: Instant, what: &str) -> Result<()> {
    if began.elapsed() > PATIENCE {
        bail!("{what} within {PATIENCE:?}");
    }
    Ok(())
}

fn alive(program: &mut Program, name: &str, began: Instant) -> Result<()> {
    if let Some(status) = program.ended() {
        bail!("{name} ended with {status} before it was ready; its log:\n{}", program.log());
    }
    if began.elapsed() > START {
        bail!("{name} was not ready within {START:?}; its log:\n{}", program.log());
    }
    Ok(())
}

/// Ends a process in good order, and shows what it had to complain about: it may explain a figure.
pub async fn stop(mut program: Program) {
    program.terminate();
    program.ends_within(START).await;
    let log = program.log();
    let complaints: Vec<_> =
        log.lines().filter(|line| [" WARN ", " ERROR "].iter().any(|level| line.contains(level))).collect();
    for complaint in complaints.iter().take(COMPLAINTS) {
        println!("  {complaint}");
    }
    if complaints.len() > COMPLAINTS {
        println!("  … and {} more", complaints.len() - COMPLAINTS);
    }
}

/// A plain task of this type, in the queue where the API would put it.
pub fn task(task_type: &str, input: &str) -> Result<NewTask> {
    let task_type = TaskType::new(task_type)?;
    let queue = Routes::default().queue_for(&task_type).clone();
    Ok(NewTask { task_type, queue, input: Json::parse(input)?, ..fixtures::task() })
}

/// A task that does nothing.
pub const NOOP: &str = "demo.noop";
/// The body of its submission.
pub const NOOP_BODY: &str = r#"{"type":"demo.noop","input":null}"#;

/// The answer to a question that is one number.
pub async fn number(connection: &mut PgConnection, sql: &str) -> Result<i64> {
    Ok(sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(connection).await?)
}

/// One command to Redis as a person would type it; answers the text of the answer.
async fn redis_command(port: u16, command: &str) -> Result<String> {
    let mut stream = TcpStream::connect(load::loopback(port)).await.context("Redis is gone")?;
    // The answer ends with the connection.
    stream.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    match text.strip_prefix('-') {
        Some(error) => bail!("Redis refused {command:?}: {error}"),
        None => Ok(text),
    }
}

/// A value in Redis' account of itself.
fn info<T: FromStr>(text: &str, name: &str) -> Option<T> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_tells_of_itself_is_read() {
        let text = "$99\r\n# Memory\r\nused_memory:123\r\nused_memory_rss:456\r\n\r\n+OK\r\n";
        assert_eq!(info(text, "used_memory"), Some(123));
        assert_eq!(info(text, "used_memory_rss"), Some(456));
        assert_eq!(info::<i64>(text, "used"), None);
    }

    #[test]
    fn tasks_go_where_the_api_would_put_them() {
        assert_eq!(task(NOOP, "null").unwrap().queue.as_str(), "demo_tasks");
    }
}

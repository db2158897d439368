//! What several runs measure from outside while something is broken: how soon work runs again, whether every place in a
//! pool is back, how long transactions sit idle, how much memory a process holds, how late tasks start.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use contract_tests::fixtures;
use domain::{Json, NewTask, QueueName, TaskType};
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    task::JoinHandle,
    time::{Instant, sleep},
};

use super::common::Finished;
use crate::{client::Client, history::HandlerEvent, types};

/// How often a run looks at what it waits for.
const LOOK: Duration = Duration::from_millis(10);

/// Promises that a run found broken by itself.
pub type Broken = Vec<(&'static str, String)>;

/// Adds what a run found broken, and what it counted, to its end.
pub fn add(finished: &mut Finished, note: String, broken: Broken) {
    finished.notes.push(note);
    for (promise, text) in broken {
        finished.expect(false, promise, || text);
    }
}

/// A URL with a name by which its sessions are told apart in `pg_stat_activity`.
pub fn named(url: &str, name: &str) -> String {
    let mark = if url.contains('?') { '&' } else { '?' };
    format!("{url}{mark}application_name={name}")
}

/// Submits a task now and waits until it has ended; answers how long both took. It asks the database itself, so that
/// nothing but the task's own way is measured.
pub async fn until_a_task_ends(url: &str, client: &Client, key: &str, limit: Duration) -> Result<Duration> {
    let started = Instant::now();
    let all = async {
        let answer = client.submit(key, types::WORK, json!({})).await?;
        until_ended(url, answer.task).await
    };
    match tokio::time::timeout(limit, all).await {
        Ok(ended) => ended.map(|()| started.elapsed()),
        Err(_) => bail!("the task of {key} has not ended within {limit:?}"),
    }
}

/// A plain task of this type, for runs that submit to the store itself.
pub fn task(task_type: &str, queue: QueueName, input: &serde_json::Value) -> Result<NewTask> {
    let (task_type, input) = (TaskType::new(task_type)?, Json::from_value(input)?);
    Ok(NewTask { task_type, queue, input, ..fixtures::task() })
}

/// Waits until a task has ended, through outages of the database.
pub async fn until_ended(url: &str, task: i64) -> Result<()> {
    loop {
        if let Ok(mut connection) = PgConnection::connect(url).await {
            loop {
                let sql = "SELECT EXISTS (SELECT FROM outcome WHERE task = $1)";
                match sqlx::query_scalar(sql).bind(task).fetch_one(&mut connection).await {
                    Ok(true) => return Ok(()),
                    Ok(false) => sleep(LOOK).await,
                    Err(_) => break,
                }
            }
        }
        sleep(LOOK).await;
    }
}

/// Whether a pool of so many connections is whole: with the table `live` locked for a moment, so many of its statements
/// wait at the same time. Answers the most that were seen. `call` is done again and again to have enough of them.
pub async fn pool_in_use<F: Future<Output = ()> + Send + 'static>(
    url: &str,
    name: &str,
    size: i64,
    call: impl Fn() -> F,
) -> Result<i64> {
    /// Longer than a mute connection needs to be given up.
    const LIMIT: Duration = Duration::from_secs(20);
    let mut lock = PgConnection::connect(url).await?;
    let mut look = PgConnection::connect(url).await?;
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = $1 AND wait_event_type = 'Lock'";
    let started = Instant::now();
    let mut most = 0;
    while most < size && started.elapsed() < LIMIT {
        // For a moment only: a worker whose heartbeats find no free connection gives up its lease.
        sqlx::raw_sql("BEGIN; LOCK TABLE live IN ACCESS EXCLUSIVE MODE").execute(&mut lock).await?;
        let calls: Vec<JoinHandle<()>> = (0..2 * size).map(|_| tokio::spawn(call())).collect();
        let locked = Instant::now();
        while most < size && locked.elapsed() < Duration::from_millis(400) {
            most = most.max(sqlx::query_scalar(waiting).bind(name).fetch_one(&mut look).await?);
            sleep(LOOK).await;
        }
        sqlx::raw_sql("ROLLBACK").execute(&mut lock).await?;
        for call in calls {
            call.await?;
        }
        sleep(Duration::from_millis(200)).await;
    }
    Ok(most)
}

/// Watches for transactions that sit idle, from its start to [`IdleWatch::stop`].
pub struct IdleWatch {
    longest: Arc<AtomicU64>,
    looks: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl IdleWatch {
    /// Watches the database of this URL.
    pub async fn start(url: &str) -> Result<Self> {
        let mut connection = PgConnection::connect(url).await?;
        let (longest, looks) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let task = tokio::spawn({
            let (longest, looks) = (Arc::clone(&longest), Arc::clone(&looks));
            async move {
                let sql = "SELECT coalesce(max(extract(epoch FROM clock_timestamp() - state_change) * 1000), 0)::bigint
                    FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
                while let Ok(idle) = sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut connection).await {
                    longest.fetch_max(u64::try_from(idle).unwrap_or_default(), Ordering::Relaxed);
                    looks.fetch_add(1, Ordering::Relaxed);
                    sleep(Duration::from_millis(50)).await;
                }
            }
        });
        Ok(Self { longest, looks, task })
    }

    /// The longest that any was seen idle.
    pub async fn stop(self) -> Result<Duration> {
        if self.task.is_finished() {
            bail!("the watch over idle transactions has ended early");
        }
        self.task.abort();
        if self.looks.load(Ordering::Relaxed) < 3 {
            bail!("the watch over idle transactions has hardly looked");
        }
        Ok(Duration::from_millis(self.longest.load(Ordering::Relaxed)))
    }
}

/// The memory that a process holds, in kilobytes.
pub fn memory_of(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).context("the process has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()).and_then(|text| text.parse().ok());
    number.context("no VmRSS in the process's status")
}

/// How late first attempts started, sorted: the time from when a task was due, by the database, to the first line of
/// its handler. Both clocks are this machine's.
pub async fn starts_late(url: &str, handlers: &[HandlerEvent]) -> Result<Vec<(Duration, i64)>> {
    let mut connection = PgConnection::connect(url).await?;
    let rows: Vec<(i64, i64)> = sqlx::query_as(
        "SELECT id, (extract(epoch FROM created_at) * 1000000)::bigint
             + coalesce((metadata::jsonb ->> 'delay_ms')::bigint, 0) * 1000 FROM task",
    )
    .fetch_all(&mut connection)
    .await?;
    let due: HashMap<i64, i64> = rows.into_iter().collect();
    let mut late: Vec<_> = handlers
        .iter()
        .filter_map(|event| match event {
            HandlerEvent::Start { task, attempt: 1, at, .. } => {
                let late = at.saturating_sub(*due.get(task)?);
                Some((Duration::from_micros(u64::try_from(late).unwrap_or_default()), *task))
            }
            _ => None,
        })
        .collect();
    late.sort_unstable();
    Ok(late)
}

/// The value at a share (0 to 1) of a sorted list; zero of an empty one.
pub fn at_share(sorted: &[Duration], share: f64) -> Duration {
    let last = sorted.len().saturating_sub(1);
    sorted.get((last as f64 * share).round() as usize).copied().unwrap_or_default()
}

/// One command to a Redis server on this port, as a person would type it; answers its first line, or the text of a bulk
/// answer.
pub async fn redis(port: u16, command: &str) -> Result<String> {
    let talk = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(format!("{command}\r\n").as_bytes()).await?;
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).await?;
        let line = line.trim_end();
        if let Some(error) = line.strip_prefix('-') {
            bail!("Redis refused {command:?}: {error}");
        }
        match line.strip_prefix('$').and_then(|length| length.parse::<usize>().ok()) {
            Some(length) => {
                let mut text = vec![0; length];
                reader.read_exact(&mut text).await?;
                Ok(String::from_utf8_lossy(&text).into_owned())
            }
            None => Ok(line.trim_start_matches(['+', ':']).to_owned()),
        }
    };
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, talk).await.with_context(|| format!("Redis did not answer {command:?}"))?
}

/// The answer to a question that is one number.
pub async fn number(connection: &mut PgConnection, sql: &str) -> Result<i64> {
    Ok(sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(connection).await?)
}

/// A setting of a Redis server, as it runs.
pub async fn redis_setting(port: u16, name: &str) -> Result<String> {
    let talk = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(format!("CONFIG GET {name}\r\n").as_bytes()).await?;
        // An array of two texts: its length, then each text's length and the text.
        let mut lines = BufReader::new(stream).lines();
        let mut last = None;
        for _ in 0..5 {
            last = lines.next_line().await?;
        }
        last.with_context(|| format!("Redis has no setting {name}"))
    };
    let limit = Duration::from_secs(10);
    tokio::time::timeout(limit, talk).await.with_context(|| format!("Redis did not tell its {name}"))?
}

//! What workers report, and what they are told to do.

use std::time::Duration;

use application::ports::{
    CommandAnswer, CommandId, Fleet, FleetStore, GivenCommand, MOST_WORKERS, StoreError, Wanted,
    WorkerRecord, WorkerReport,
};
use async_trait::async_trait;
use domain::{Departure, Json, QueueName, WorkerId};
use sqlx::SqliteConnection;

use crate::{
    clock::micros,
    error::store_error,
    rows::{duration, id_list, moment, parse_name, parse_queue, unreadable},
    store::{Query, SqliteStore},
    writer::{Change, Write},
};

/// The most commands that a worker is given at once.
const MOST_COMMANDS: i64 = 100;

struct ReadWorkers {
    now: i64,
    wanted: Wanted,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    name: String,
    queues: String,
    except_queues: Option<String>,
    concurrency: i64,
    lease: i64,
    state: String,
    registered_at: i64,
    last_heartbeat: i64,
    about: Option<String>,
    told_at: Option<i64>,
    report: Option<String>,
}

#[async_trait]
impl Query for ReadWorkers {
    type Answer = Fleet;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        const ONE: &str = "
            SELECT w.*, r.told_at, r.report FROM worker AS w LEFT JOIN worker_report AS r ON r.worker = w.id
            WHERE w.id = ?1";
        const ALIVE: &str = "
            SELECT w.*, r.told_at, r.report
            FROM worker AS w INDEXED BY worker_alive LEFT JOIN worker_report AS r ON r.worker = w.id
            WHERE w.state = 'alive' ORDER BY w.id DESC LIMIT ?1";
        // Of the latest 200 only: nobody counts all that ever were.
        const GONE: &str = "
            SELECT w.*, r.told_at, r.report FROM worker AS w LEFT JOIN worker_report AS r ON r.worker = w.id
            WHERE w.id > (SELECT max(id) FROM worker) - 200 AND w.state <> 'alive' AND w.last_heartbeat >= ?1";
        let rows: Result<Vec<Row>, _> = match self.wanted {
            Wanted::One(id) => sqlx::query_as(ONE).bind(id.0).fetch_all(snapshot).await,
            Wanted::Recent(within) => {
                let most = i64::try_from(MOST_WORKERS).unwrap_or(i64::MAX);
                let alive: Result<Vec<Row>, _> =
                    sqlx::query_as(ALIVE).bind(most).fetch_all(&mut *snapshot).await;
                let since = self.now.saturating_sub(micros(within));
                let gone = sqlx::query_as(GONE).bind(since).fetch_all(snapshot).await;
                alive.and_then(|alive| Ok(alive.into_iter().chain(gone?).collect()))
            }
        };
        let rows = rows.map_err(store_error)?;
        let mut workers: Vec<WorkerRecord> = rows.into_iter().map(Row::read).collect::<Result<_, _>>()?;
        workers.sort_unstable_by_key(|worker| std::cmp::Reverse(worker.id));
        workers.truncate(MOST_WORKERS);
        Ok(Fleet { now: moment(self.now)?, workers })
    }
}

impl Row {
    fn read(self) -> Result<WorkerRecord, StoreError> {
        let departure = match self.state.as_str() {
            "alive" => None,
            "retired" => Some(Departure::Left),
            "dead" => Some(Departure::Dead),
            other => return Err(unreadable("a worker's state", &other)),
        };
        let report = self.told_at.zip(self.report);
        Ok(WorkerRecord {
            id: WorkerId(self.id),
            name: parse_name(&self.name)?,
            queues: read_queues(&self.queues)?,
            except: self.except_queues.as_deref().map(read_queues).transpose()?.unwrap_or_default(),
            concurrency: usize::try_from(self.concurrency).unwrap_or_default(),
            lease: duration(self.lease)?,
            registered_at: moment(self.registered_at)?,
            last_heartbeat: moment(self.last_heartbeat)?,
            departure,
            about: self.about.map(Json::from_stored),
            report: report.map(|(at, text)| Ok((moment(at)?, Json::from_stored(text)))).transpose()?,
        })
    }
}

fn read_queues(text: &str) -> Result<Vec<QueueName>, StoreError> {
    let names: Vec<String> =
        serde_json::from_str(text).map_err(|_| unreadable("a worker's queues", &text))?;
    names.iter().map(|name| parse_queue(name)).collect()
}

/// Names as a JSON array.
pub(crate) fn queue_list(queues: &[QueueName]) -> String {
    let names: Vec<&str> = queues.iter().map(|queue| queue.as_str()).collect();
    serde_json::to_string(&names).expect("names can be written as JSON")
}

struct GiveCommand {
    workers: Vec<WorkerId>,
    command: String,
}

#[async_trait]
impl Change for GiveCommand {
    type Answer = Vec<CommandId>;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        const SQL: &str =
            "INSERT INTO worker_command (worker, command, created_at) VALUES (?1, ?2, ?3) RETURNING id";
        let mut ids = Vec::with_capacity(self.workers.len());
        for worker in &self.workers {
            let query = sqlx::query_scalar(SQL).bind(worker.0).bind(&self.command).bind(write.now);
            ids.push(CommandId(query.fetch_one(&mut *write.conn).await.map_err(store_error)?));
        }
        Ok(ids)
    }
}

struct ReadAnswers {
    commands: Vec<CommandId>,
}

#[async_trait]
impl Query for ReadAnswers {
    type Answer = Vec<CommandAnswer>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "
            SELECT c.id, c.done, c.message FROM json_each(?1) AS asked CROSS JOIN worker_command AS c ON c.id = asked.value
            WHERE c.answered_at IS NOT NULL";
        let rows: Vec<(i64, bool, String)> = sqlx::query_as(SQL)
            .bind(id_list(self.commands.iter().map(|command| command.0)))
            .fetch_all(snapshot)
            .await
            .map_err(store_error)?;
        let answer = |(id, done, message)| CommandAnswer { id: CommandId(id), done, message };
        Ok(rows.into_iter().map(answer).collect())
    }
}

const OPEN: &str = "
    SELECT c.id, c.command FROM worker AS w CROSS JOIN worker_command AS c ON c.worker = w.id
    WHERE w.id = ?1 AND w.state = 'alive' AND c.answered_at IS NULL ORDER BY c.id LIMIT ?2";

async fn open_commands(
    conn: &mut SqliteConnection,
    worker: WorkerId,
) -> Result<Vec<GivenCommand>, StoreError> {
    let query = sqlx::query_as(OPEN).bind(worker.0).bind(MOST_COMMANDS);
    let rows: Vec<(i64, String)> = query.fetch_all(conn).await.map_err(store_error)?;
    Ok(rows.into_iter().map(|(id, command)| GivenCommand { id: CommandId(id), command }).collect())
}

/// Nothing is new: nothing is written.
struct Look {
    worker: WorkerId,
}

#[async_trait]
impl Query for Look {
    type Answer = Vec<GivenCommand>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        open_commands(snapshot, self.worker).await
    }
}

struct Tell {
    worker: WorkerId,
    report: Option<WorkerReport>,
    answers: Vec<CommandAnswer>,
}

#[async_trait]
impl Change for Tell {
    type Answer = Vec<GivenCommand>;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        const ALIVE: &str = "SELECT id FROM worker WHERE id = ?1 AND state = 'alive'";
        const SERVES: &str =
            "UPDATE worker SET queues = ?2, except_queues = ?3, concurrency = ?4 WHERE id = ?1";
        const TOLD: &str = "
            INSERT INTO worker_report (worker, told_at, report) VALUES (?1, ?2, ?3)
            ON CONFLICT (worker) DO UPDATE SET told_at = excluded.told_at, report = excluded.report";
        const ANSWERED: &str = "
            UPDATE worker_command SET answered_at = ?3, done = ?4, message = ?5
            WHERE id = ?1 AND worker = ?2 AND answered_at IS NULL";
        let id = self.worker.0;
        let alive: Option<i64> =
            sqlx::query_scalar(ALIVE).bind(id).fetch_optional(&mut *write.conn).await.map_err(store_error)?;
        if alive.is_none() {
            return Ok(Vec::new());
        }
        if let Some(WorkerReport { queues, except, concurrency, standing }) = &self.report {
            let serves = sqlx::query(SERVES).bind(id).bind(queue_list(queues)).bind(queue_list(except));
            let serves = serves.bind(i64::try_from(*concurrency).unwrap_or(i64::MAX));
            serves.execute(&mut *write.conn).await.map_err(store_error)?;
            let told = sqlx::query(TOLD).bind(id).bind(write.now).bind(standing.as_str());
            told.execute(&mut *write.conn).await.map_err(store_error)?;
        }
        for answer in &self.answers {
            let answered = sqlx::query(ANSWERED).bind(answer.id.0).bind(id).bind(write.now).bind(answer.done);
            answered.bind(&answer.message).execute(&mut *write.conn).await.map_err(store_error)?;
        }
        open_commands(&mut *write.conn, self.worker).await
    }
}

struct ForgetReports {
    age: Duration,
    limit: usize,
}

#[async_trait]
impl Change for ForgetReports {
    type Answer = usize;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        const COMMANDS: &str = "
            DELETE FROM worker_command WHERE id IN (
                SELECT id FROM worker_command WHERE created_at < ?1 ORDER BY created_at LIMIT ?2)";
        const REPORTS: &str = "
            DELETE FROM worker_report WHERE worker IN (
                SELECT w.id FROM worker AS w CROSS JOIN worker_report AS r ON r.worker = w.id
                WHERE w.id > (SELECT min(worker) - 1 FROM worker_report) AND w.state <> 'alive' AND r.told_at < ?1 LIMIT ?2)";
        let before = write.now.saturating_sub(micros(self.age));
        let limit = i64::try_from(self.limit).unwrap_or(i64::MAX);
        let mut forgotten = 0;
        for sql in [COMMANDS, REPORTS] {
            let query = sqlx::query(sql).bind(before).bind(limit);
            forgotten += query.execute(&mut *write.conn).await.map_err(store_error)?.rows_affected();
        }
        Ok(usize::try_from(forgotten).unwrap_or(usize::MAX))
    }
}

#[async_trait]
impl FleetStore for SqliteStore {
    async fn workers(&self, wanted: Wanted) -> Result<Fleet, StoreError> {
        self.query(ReadWorkers { now: self.now(), wanted }).await
    }

    async fn command(&self, workers: &[WorkerId], command: &str) -> Result<Vec<CommandId>, StoreError> {
        self.write(GiveCommand { workers: workers.to_vec(), command: command.to_owned() }).await
    }

    async fn answers(&self, commands: &[CommandId]) -> Result<Vec<CommandAnswer>, StoreError> {
        self.query(ReadAnswers { commands: commands.to_vec() }).await
    }

    async fn report(
        &self,
        worker: WorkerId,
        report: Option<WorkerReport>,
        answers: &[CommandAnswer],
    ) -> Result<Vec<GivenCommand>, StoreError> {
        if report.is_none() && answers.is_empty() {
            return self.query(Look { worker }).await;
        }
        self.write(Tell { worker, report, answers: answers.to_vec() }).await
    }

    async fn forget_reports(&self, age: Duration, limit: usize) -> Result<usize, StoreError> {
        self.write(ForgetReports { age, limit }).await
    }
}

//! What workers report, and what they are told to do.

use std::time::Duration;

use application::ports::{
    CommandAnswer, CommandId, Fleet, FleetStore, GivenCommand, MOST_WORKERS, StoreError, Wanted,
    WorkerRecord, WorkerReport,
};
use async_trait::async_trait;
use domain::{Departure, Json, QueueName, Timestamp, WorkerId};
use sqlx::{PgConnection, postgres::PgRow, postgres::types::PgInterval};

use crate::{
    PostgresStore,
    clock::Clock,
    connections::Operation,
    error::Fault,
    rows::{self, field, interval, limit},
};

/// How far back workers that are gone are looked for.
const LATEST: i64 = 200;
/// The most commands that a worker is given at once.
const MOST_COMMANDS: i64 = 100;

struct ReadWorkers {
    wanted: Wanted,
    clock: Clock,
}

macro_rules! select_workers {
    ($rest:literal) => {
        concat!(
            "SELECT w.*, r.told_at, r.report FROM worker w LEFT JOIN worker_report r ON r.worker = w.id ",
            $rest
        )
    };
}

const ALIVE: &str =
    select_workers!("WHERE w.dead_at IS NULL AND w.retired_at IS NULL ORDER BY w.id DESC LIMIT $1");
const GONE: &str = select_workers!(
    "WHERE w.id > (SELECT max(id) FROM worker) - $3
     AND (w.dead_at IS NOT NULL OR w.retired_at IS NOT NULL) AND w.heartbeat_at >= coalesce($1, now()) - $2
     ORDER BY w.id DESC"
);
const ONE: &str = select_workers!("WHERE w.id = $1");

impl Operation for ReadWorkers {
    type Output = Fleet;

    async fn run(&self, connection: &mut PgConnection) -> Result<Fleet, Fault> {
        let now = sqlx::query_scalar::<_, Timestamp>("SELECT coalesce($1, now())").bind(self.clock.bind());
        let now = now.fetch_one(&mut *connection).await?;
        let rows = match self.wanted {
            Wanted::One(id) => sqlx::query(ONE).bind(id.0).fetch_all(connection).await?,
            Wanted::Recent(within) => {
                let alive = sqlx::query(ALIVE).bind(limit(MOST_WORKERS));
                let mut rows = alive.fetch_all(&mut *connection).await?;
                let gone = sqlx::query(GONE).bind(self.clock.bind()).bind(interval(within)).bind(LATEST);
                rows.extend(gone.fetch_all(connection).await?);
                rows
            }
        };
        let mut workers: Vec<WorkerRecord> = rows.iter().map(read_worker).collect::<Result<_, _>>()?;
        workers.sort_unstable_by_key(|worker| std::cmp::Reverse(worker.id));
        workers.truncate(MOST_WORKERS);
        Ok(Fleet { now, workers })
    }
}

fn read_worker(row: &PgRow) -> Result<WorkerRecord, Fault> {
    let gone = |column| Ok::<_, Fault>(field::<Option<Timestamp>>(row, column)?.is_some());
    let departure = match (gone("retired_at")?, gone("dead_at")?) {
        (true, _) => Some(Departure::Left),
        (false, true) => Some(Departure::Dead),
        (false, false) => None,
    };
    let report = field::<Option<Timestamp>>(row, "told_at")?.zip(field::<Option<String>>(row, "report")?);
    let lease: PgInterval = field(row, "lease")?;
    let concurrency: i64 = field(row, "concurrency")?;
    Ok(WorkerRecord {
        id: WorkerId(field(row, "id")?),
        name: rows::name(row, "name")?,
        queues: read_queues(field(row, "queues")?)?,
        except: read_queues(field::<Option<Vec<String>>>(row, "except_queues")?.unwrap_or_default())?,
        concurrency: usize::try_from(concurrency).unwrap_or_default(),
        lease: Duration::from_micros(lease.microseconds.unsigned_abs()),
        registered_at: field(row, "started_at")?,
        last_heartbeat: field(row, "heartbeat_at")?,
        departure,
        about: field::<Option<String>>(row, "about")?.map(Json::from_stored),
        report: report.map(|(at, report)| (at, Json::from_stored(report))),
    })
}

fn read_queues(names: Vec<String>) -> Result<Vec<QueueName>, Fault> {
    let read = |name: &String| QueueName::new(name).map_err(|error| Fault::Unreadable(error.to_string()));
    names.iter().map(read).collect()
}

struct GiveCommand {
    workers: Vec<i64>,
    command: String,
    clock: Clock,
}

impl Operation for GiveCommand {
    type Output = Vec<CommandId>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<CommandId>, Fault> {
        let ids: Vec<i64> = sqlx::query_scalar(
            "INSERT INTO worker_command (worker, created_at, command)
             SELECT w.worker, coalesce($2, now()), $3 FROM unnest($1::bigint[]) WITH ORDINALITY AS w (worker, place)
             ORDER BY w.place RETURNING id",
        )
        .bind(&self.workers)
        .bind(self.clock.bind())
        .bind(&self.command)
        .fetch_all(connection)
        .await?;
        Ok(ids.into_iter().map(CommandId).collect())
    }
}

struct ReadAnswers {
    commands: Vec<i64>,
}

impl Operation for ReadAnswers {
    type Output = Vec<CommandAnswer>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<CommandAnswer>, Fault> {
        let rows = sqlx::query(
            "SELECT id, done, message FROM worker_command WHERE id = ANY($1) AND answered_at IS NOT NULL ORDER BY id",
        )
        .bind(&self.commands)
        .fetch_all(connection)
        .await?;
        rows.iter()
            .map(|row| {
                let (id, done, message) =
                    (CommandId(field(row, "id")?), field(row, "done")?, field(row, "message")?);
                Ok(CommandAnswer { id, done, message })
            })
            .collect()
    }
}

struct Report {
    worker: WorkerId,
    report: Option<WorkerReport>,
    answers: Vec<CommandAnswer>,
    clock: Clock,
}

/// What is nearly always asked: nothing is new, nothing is to be done.
const LOOK: &str = "
SELECT id, command FROM worker_command WHERE worker = $1 AND answered_at IS NULL
AND EXISTS (SELECT FROM worker WHERE id = $1 AND dead_at IS NULL AND retired_at IS NULL) ORDER BY id LIMIT $2";

const TELL: &str = "
WITH me AS MATERIALIZED (SELECT id FROM worker WHERE id = $1 AND dead_at IS NULL AND retired_at IS NULL),
told AS (
    INSERT INTO worker_report (worker, told_at, report) SELECT id, coalesce($3, now()), $4 FROM me WHERE $4 IS NOT NULL
    ON CONFLICT (worker) DO UPDATE SET told_at = excluded.told_at, report = excluded.report
), serves AS (
    UPDATE worker SET queues = $5, concurrency = $6, except_queues = nullif($10, '{}')
    WHERE id = (SELECT id FROM me) AND $4 IS NOT NULL
    AND (queues, concurrency, coalesce(except_queues, '{}')) IS DISTINCT FROM ($5, $6, $10)
), answered AS (
    UPDATE worker_command c SET answered_at = coalesce($3, now()), done = a.done, message = a.message
    FROM unnest($7::bigint[], $8::boolean[], $9::text[]) AS a (id, done, message)
    WHERE c.id = a.id AND c.worker = (SELECT id FROM me) AND c.answered_at IS NULL
)
SELECT id, command FROM worker_command
WHERE worker = (SELECT id FROM me) AND answered_at IS NULL AND id <> ALL($7) ORDER BY id LIMIT $2";

impl Operation for Report {
    type Output = Vec<GivenCommand>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<GivenCommand>, Fault> {
        let names = |queues: &[QueueName]| queues.iter().map(|queue| queue.to_string()).collect::<Vec<_>>();
        let rows = if self.report.is_none() && self.answers.is_empty() {
            sqlx::query(LOOK).bind(self.worker.0).bind(MOST_COMMANDS).fetch_all(connection).await?
        } else {
            let report = self.report.as_ref();
            let clean = |message: &str| message.replace('\0', "");
            sqlx::query(TELL)
                .bind(self.worker.0)
                .bind(MOST_COMMANDS)
                .bind(self.clock.bind())
                .bind(report.map(|report| report.standing.as_str()))
                .bind(report.map(|report| names(&report.queues)).unwrap_or_default())
                .bind(report.map_or(0, |report| limit(report.concurrency)))
                .bind(self.answers.iter().map(|answer| answer.id.0).collect::<Vec<_>>())
                .bind(self.answers.iter().map(|answer| answer.done).collect::<Vec<_>>())
                .bind(self.answers.iter().map(|answer| clean(&answer.message)).collect::<Vec<_>>())
                .bind(report.map(|report| names(&report.except)).unwrap_or_default())
                .fetch_all(connection)
                .await?
        };
        rows.iter()
            .map(|row| Ok(GivenCommand { id: CommandId(field(row, "id")?), command: field(row, "command")? }))
            .collect()
    }
}

struct ForgetReports {
    age: Duration,
    limit: usize,
    clock: Clock,
}

impl Operation for ForgetReports {
    type Output = usize;

    async fn run(&self, connection: &mut PgConnection) -> Result<usize, Fault> {
        let commands = "
            DELETE FROM worker_command WHERE id = ANY(ARRAY(
                SELECT id FROM worker_command WHERE created_at < coalesce($1, now()) - $2 ORDER BY created_at LIMIT $3))";
        // As many rows as there are workers, and were of late.
        let reports = "
            DELETE FROM worker_report WHERE worker = ANY(ARRAY(
                SELECT r.worker FROM worker_report r WHERE r.told_at < coalesce($1, now()) - $2
                AND (SELECT w.dead_at IS NOT NULL OR w.retired_at IS NOT NULL FROM worker w WHERE w.id = r.worker)
                ORDER BY r.worker LIMIT $3))";
        let mut forgotten = 0;
        for sql in [commands, reports] {
            let query = sqlx::query(sql).bind(self.clock.bind()).bind(interval(self.age));
            let done = query.bind(limit(self.limit)).execute(&mut *connection).await?;
            forgotten += usize::try_from(done.rows_affected()).unwrap_or(usize::MAX);
        }
        Ok(forgotten)
    }
}

#[async_trait]
impl FleetStore for PostgresStore {
    async fn workers(&self, wanted: Wanted) -> Result<Fleet, StoreError> {
        self.connections.run(ReadWorkers { wanted, clock: self.clock.clone() }).await
    }

    async fn command(&self, workers: &[WorkerId], command: &str) -> Result<Vec<CommandId>, StoreError> {
        let workers = workers.iter().map(|worker| worker.0).collect();
        let give = GiveCommand { workers, command: command.to_owned(), clock: self.clock.clone() };
        self.connections.run(give).await
    }

    async fn answers(&self, commands: &[CommandId]) -> Result<Vec<CommandAnswer>, StoreError> {
        let commands = commands.iter().map(|command| command.0).collect();
        self.connections.run(ReadAnswers { commands }).await
    }

    async fn report(
        &self,
        worker: WorkerId,
        report: Option<WorkerReport>,
        answers: &[CommandAnswer],
    ) -> Result<Vec<GivenCommand>, StoreError> {
        let (answers, clock) = (answers.to_vec(), self.clock.clone());
        self.connections.run(Report { worker, report, answers, clock }).await
    }

    async fn forget_reports(&self, age: Duration, limit: usize) -> Result<usize, StoreError> {
        self.connections.run(ForgetReports { age, limit, clock: self.clock.clone() }).await
    }
}

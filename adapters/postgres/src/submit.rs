//! Submissions: one statement for a batch, whatever its size. What has to be looked up first is in [`crate::once`].

use application::{
    combine::{Combiner, Together},
    ports::{Receipt, StoreError, Submitted},
};
use domain::{NewTask, Rank, Start, TaskId, Timestamp};
use sqlx::{
    PgConnection, Postgres,
    postgres::{PgArguments, PgRow},
    query::Query,
};

use crate::{
    PostgresStore,
    clock::Clock,
    connections::{Connections, Operation},
    error::Fault,
    fair,
    once::SubmitOnce,
    rows::{field, integer, interval, micros, moment, retry_text},
};

/// Stores a batch. `$number` is where the ids come from, `$arrays` and `$names` what is given beyond a plain submission,
/// `$kept` and `$live` what of it are columns of `task` and of `live`, and `$and` one more part of the statement.
macro_rules! submit {
    ($number:literal, $arrays:literal, $names:literal, $kept:literal, $live:literal, $and:literal) => {
        concat!(
            // Ids are drawn from the sequence in the order of the batch: the numbering stands above the ordered rows.
            "WITH submitted AS MATERIALIZED (
                SELECT ",
            $number,
            " AS id, coalesce($1, now()) AS created_at,
                    CASE WHEN s.start_at > coalesce($1, now()) THEN s.start_at
                         WHEN s.delay > interval '0' THEN coalesce($1, now()) + s.delay END AS run_at, s.*
                FROM (
                    SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::smallint[], $6::text[], $7::text[],
                        $8::timestamptz[], $9::interval[], $10::timestamptz[], $11::integer[], $12::bigint[], $13::bigint[]",
            $arrays,
            ")
                    WITH ORDINALITY AS batch (tenant, task_type, queue, priority, input, metadata,
                        start_at, delay, expires_at, max_attempts, soft_time_limit, time_limit",
            $names,
            ", place)
                    ORDER BY place
                ) s
            ), kept AS (
                INSERT INTO task (id, created_at, expires_at, soft_time_limit, time_limit, max_attempts, priority,
                    tenant, task_type, queue, input, metadata",
            $kept,
            ")
                SELECT id, created_at, expires_at, soft_time_limit, time_limit, max_attempts, priority,
                    tenant, task_type, queue, input, metadata",
            $kept,
            "
                FROM submitted
            ), begun AS (
                INSERT INTO live (id, tenant, queue, priority, ready, due_at, expires_at",
            $live,
            ")
                SELECT id, tenant, queue, priority, run_at IS NULL, run_at, expires_at",
            $live,
            " FROM submitted
            ), tallied AS (
                INSERT INTO tally_delta (tenant, queue, scheduled, pending)
                SELECT tenant, queue, count(run_at), count(*) - count(run_at) FROM submitted GROUP BY tenant, queue
            )",
            $and,
            " SELECT id, created_at, run_at FROM submitted ORDER BY place"
        )
    };
}

const SUBMIT: &str = submit!("nextval('task_id')", "", "", "", "", "");

/// As [`SUBMIT`], with keys and own terms. An idempotency key that is there already is one whose time is over: the caller
/// has looked.
const SUBMIT_WITH_KEYS: &str = submit!(
    "nextval('task_id')",
    ", $14::text[], $15::text[], $16::bytea[], $17::text[], $18::bigint[], $19::text[], $20::integer[], $21::bigint[]",
    ", unique_key, key, fingerprint, retry, keep_for, fairness_key, cost, rank",
    ", unique_key, retry, keep_for, fairness_key, cost",
    ", unique_key, rank",
    ", kept_for AS (
        INSERT INTO retention_look (task, look_at)
        SELECT id, created_at + keep_for * interval '1 microsecond' FROM submitted WHERE keep_for IS NOT NULL
    ), remembered AS (
        INSERT INTO idempotency_key (tenant, key, fingerprint, task, created_at, run_at)
        SELECT tenant, key, fingerprint, id, created_at, run_at FROM submitted WHERE key IS NOT NULL
        ON CONFLICT (tenant, key) DO UPDATE SET fingerprint = excluded.fingerprint, task = excluded.task,
            created_at = excluded.created_at, run_at = excluded.run_at
    )"
);

/// As [`SUBMIT_WITH_KEYS`], of tasks that wait for others: their numbers were drawn before, since they name each other.
const SUBMIT_FLOW: &str = submit!(
    "s.number",
    ", $14::text[], $15::text[], $16::bytea[], $17::text[], $18::bigint[], $19::text[], $20::integer[], $21::bigint[],
        $22::bigint[], $23::bigint[], $24::text[], $25::integer[], $26::boolean[]",
    ", unique_key, key, fingerprint, retry, keep_for, fairness_key, cost, rank, number, batch, needs, waits_for, awaited",
    ", unique_key, retry, keep_for, fairness_key, cost, batch, needs",
    ", unique_key, rank, waits_for, awaited",
    ", kept_for AS (
        INSERT INTO retention_look (task, look_at)
        SELECT id, created_at + keep_for * interval '1 microsecond' FROM submitted WHERE keep_for IS NOT NULL
    ), remembered AS (
        INSERT INTO idempotency_key (tenant, key, fingerprint, task, created_at, run_at)
        SELECT tenant, key, fingerprint, id, created_at, CASE WHEN waits_for IS NULL THEN run_at END
        FROM submitted WHERE key IS NOT NULL
        ON CONFLICT (tenant, key) DO UPDATE SET fingerprint = excluded.fingerprint, task = excluded.task,
            created_at = excluded.created_at, run_at = excluded.run_at
    )"
);

/// As [`SUBMIT`], for a single task that starts now: what an idle system gets. It takes half the server's time.
const SUBMIT_ONE: &str = "
WITH kept AS (
    INSERT INTO task (created_at, tenant, task_type, queue, priority, input, metadata, expires_at, max_attempts,
        soft_time_limit, time_limit)
    VALUES (coalesce($1, now()), $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) RETURNING id, created_at
), begun AS (
    INSERT INTO live (id, tenant, queue, priority, ready, expires_at) SELECT id, $2, $4, $5, true, $8 FROM kept
), tallied AS (
    INSERT INTO tally_delta (tenant, queue, pending) VALUES ($2, $4, 1)
)
SELECT id, created_at, NULL::timestamptz AS run_at FROM kept";

struct Submit {
    tasks: Vec<NewTask>,
    clock: Clock,
}

impl Operation for Submit {
    type Output = Vec<Submitted>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<Submitted>, Fault> {
        if let [task @ NewTask { start: Start::Now, .. }] = self.tasks.as_slice() {
            let row = bind_one(task, self.clock.bind()).fetch_one(connection).await?;
            return Ok(vec![Submitted::New(receipt(&row)?)]);
        }
        let tasks: Vec<_> = self.tasks.iter().collect();
        let rows = bind(SUBMIT, &tasks, self.clock.bind()).fetch_all(connection).await?;
        rows.iter().map(|row| Ok(Submitted::New(receipt(row)?))).collect()
    }
}

/// Stores tasks with what they are to be found by, and what they say for themselves: they must be new ones.
pub(crate) async fn insert_with_keys(
    connection: &mut PgConnection,
    tasks: &[&NewTask],
    now: Option<Timestamp>,
) -> Result<Vec<Receipt>, Fault> {
    let query = bind_keys(bind(SUBMIT_WITH_KEYS, tasks, now), tasks);
    let rows = query.fetch_all(&mut *connection).await?;
    lined_up(connection, tasks, &rows, now).await
}

/// The receipts of tasks that are stored; those that begin to wait in a fair queue get their ranks.
async fn lined_up(
    connection: &mut PgConnection,
    tasks: &[&NewTask],
    rows: &[PgRow],
    now: Option<Timestamp>,
) -> Result<Vec<Receipt>, Fault> {
    let mut receipts = rows.iter().map(receipt).collect::<Result<Vec<_>, _>>()?;
    let begin = |(task, receipt): &(&&NewTask, &Receipt)| task.share.is_some() && receipt.run_at.is_none();
    let fair: Vec<TaskId> =
        tasks.iter().zip(&receipts).filter(begin).map(|(_, receipt)| receipt.id).collect();
    let ranks = fair::line_up(connection, fair, now).await?;
    for receipt in &mut receipts {
        receipt.rank = ranks.get(&receipt.id).copied().unwrap_or(receipt.rank);
    }
    Ok(receipts)
}

/// What ties a task of a flow to others.
pub(crate) struct Ties {
    /// Its number.
    pub(crate) number: i64,
    /// The batch that it is an item of.
    pub(crate) batch: Option<i64>,
    /// The column `needs`.
    pub(crate) needs: Option<String>,
    /// For how many others it waits.
    pub(crate) waits_for: Option<i32>,
    /// Whether others wait for it.
    pub(crate) awaited: Option<bool>,
}

/// Stores the tasks of a flow with what ties them together.
pub(crate) async fn insert_flow(
    connection: &mut PgConnection,
    tasks: &[&NewTask],
    ties: &[Ties],
    now: Option<Timestamp>,
) -> Result<Vec<Receipt>, Fault> {
    let query = bind_keys(bind(SUBMIT_FLOW, tasks, now), tasks)
        .bind(ties.iter().map(|ties| ties.number).collect::<Vec<_>>())
        .bind(ties.iter().map(|ties| ties.batch).collect::<Vec<_>>())
        .bind(ties.iter().map(|ties| ties.needs.as_deref()).collect::<Vec<_>>())
        .bind(ties.iter().map(|ties| ties.waits_for).collect::<Vec<_>>())
        .bind(ties.iter().map(|ties| ties.awaited).collect::<Vec<_>>());
    let rows = query.fetch_all(&mut *connection).await?;
    lined_up(connection, tasks, &rows, now).await
}

fn bind_keys<'q>(
    query: Query<'q, Postgres, PgArguments>,
    tasks: &[&'q NewTask],
) -> Query<'q, Postgres, PgArguments> {
    let idempotency = || tasks.iter().map(|task| task.idempotency.as_ref());
    let shares = || tasks.iter().map(|task| task.share.as_ref());
    let unique = tasks.iter().map(|task| task.unique.as_ref().map(|unique| unique.key.as_str()));
    query
        .bind(unique.collect::<Vec<_>>())
        .bind(idempotency().map(|once| once.map(|once| once.key.as_str())).collect::<Vec<_>>())
        .bind(idempotency().map(|once| once.map(|once| once.fingerprint.as_slice())).collect::<Vec<_>>())
        .bind(tasks.iter().map(|task| retry_text(&task.own)).collect::<Vec<_>>())
        .bind(tasks.iter().map(|task| task.own.keep_for.map(micros)).collect::<Vec<_>>())
        .bind(
            shares()
                .map(|share| share.and_then(|share| share.key.as_ref()).map(|key| key.as_str()))
                .collect::<Vec<_>>(),
        )
        .bind(shares().map(|share| share.map(|share| integer(share.cost.get()))).collect::<Vec<_>>())
        .bind(shares().map(|share| share.map(|_| fair::UNRANKED.0)).collect::<Vec<_>>())
}

fn bind_one(task: &NewTask, now: Option<Timestamp>) -> Query<'_, Postgres, PgArguments> {
    sqlx::query(SUBMIT_ONE)
        .bind(now)
        .bind(task.tenant.as_str())
        .bind(task.task_type.as_str())
        .bind(task.queue.as_str())
        .bind(i16::from(task.priority.get()))
        .bind(task.input.as_str())
        .bind(task.metadata.as_ref().map(|metadata| metadata.as_str()))
        .bind(task.expires_at.map(moment))
        .bind(integer(task.limits.max_attempts))
        .bind(task.limits.soft_time_limit.map(micros))
        .bind(micros(task.limits.time_limit))
}

fn bind<'q>(
    sql: &'static str,
    tasks: &[&'q NewTask],
    now: Option<Timestamp>,
) -> Query<'q, Postgres, PgArguments> {
    macro_rules! column {
        (|$task:ident| $value:expr) => {
            tasks.iter().map(|$task| $value).collect::<Vec<_>>()
        };
    }
    sqlx::query(sql)
        .bind(now)
        .bind(column!(|task| task.tenant.as_str()))
        .bind(column!(|task| task.task_type.as_str()))
        .bind(column!(|task| task.queue.as_str()))
        .bind(column!(|task| i16::from(task.priority.get())))
        .bind(column!(|task| task.input.as_str()))
        .bind(column!(|task| task.metadata.as_ref().map(|metadata| metadata.as_str())))
        .bind(column!(|task| match task.start {
            Start::At(at) => Some(moment(at)),
            Start::Now | Start::After(_) => None,
        }))
        .bind(column!(|task| match task.start {
            Start::After(wait) => Some(interval(wait)),
            Start::Now | Start::At(_) => None,
        }))
        .bind(column!(|task| task.expires_at.map(moment)))
        .bind(column!(|task| integer(task.limits.max_attempts)))
        .bind(column!(|task| task.limits.soft_time_limit.map(micros)))
        .bind(column!(|task| micros(task.limits.time_limit)))
}

fn receipt(row: &PgRow) -> Result<Receipt, Fault> {
    let id: i64 = field(row, "id")?;
    Ok(Receipt {
        id: TaskId(id),
        rank: Rank(id),
        created_at: field(row, "created_at")?,
        run_at: field(row, "run_at")?,
    })
}

/// Submissions that arrive while others are being stored are stored together: one statement and one commit for all.
pub(crate) struct Submissions {
    plain: Combiner<NewTask, Submitted>,
    /// Those with keys have to be looked up first, those of fair queues wait for their lanes. They keep each other company,
    /// and hold up no others.
    with_keys: Combiner<NewTask, Submitted>,
}

/// Two at a time: one is put together while the other waits for the disk.
const TOGETHER: Together = Together { most: 500, calls: 2 };

impl Submissions {
    pub(crate) fn new(connections: &Connections, clock: &Clock) -> Self {
        let (plain, with_keys) = ((connections.clone(), clock.clone()), (connections.clone(), clock.clone()));
        Self {
            plain: Combiner::new(TOGETHER, move |tasks| {
                let (connections, clock) = plain.clone();
                async move { connections.run(Submit { tasks, clock }).await }
            }),
            with_keys: Combiner::new(TOGETHER, move |tasks| {
                let (connections, clock) = with_keys.clone();
                async move { connections.run(SubmitOnce { tasks, clock }).await }
            }),
        }
    }
}

impl PostgresStore {
    pub(crate) async fn submit_tasks(&self, tasks: &[NewTask]) -> Result<Vec<Submitted>, StoreError> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        self.tallied();
        let is_plain = |task: &NewTask| {
            let NewTask { idempotency, unique, own, share, .. } = task;
            idempotency.is_none() && unique.is_none() && own.is_empty() && share.is_none()
        };
        let with_keys = !tasks.iter().all(is_plain);
        let Submissions { plain, with_keys: keyed } = &self.submissions;
        if with_keys { keyed } else { plain }.call(tasks.to_vec()).await
    }
}

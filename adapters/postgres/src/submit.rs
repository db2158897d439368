//! Submissions: one statement for a batch, whatever its size.

use application::ports::{Receipt, StoreError};
use domain::{NewTask, Start, TaskId};
use sqlx::PgConnection;

use crate::{
    PostgresStore,
    clock::Clock,
    connections::Operation,
    error::Fault,
    rows::{field, integer, interval, micros, moment},
};

struct Submit {
    tasks: Vec<NewTask>,
    clock: Clock,
}

impl PostgresStore {
    pub(crate) async fn submit_tasks(&self, tasks: &[NewTask]) -> Result<Vec<Receipt>, StoreError> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        self.tallied();
        self.connections.run(Submit { tasks: tasks.to_vec(), clock: self.clock.clone() }).await
    }
}

impl Operation for Submit {
    type Output = Vec<Receipt>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<Receipt>, Fault> {
        let tasks = &self.tasks;
        macro_rules! column {
            (|$task:ident| $value:expr) => {
                tasks.iter().map(|$task| $value).collect::<Vec<_>>()
            };
        }
        // Ids are drawn from the sequence in the order of the batch: the numbering stands above the ordered rows.
        let rows = sqlx::query(
            "WITH submitted AS MATERIALIZED (
                SELECT nextval('task_id') AS id, coalesce($1, now()) AS created_at,
                    CASE WHEN s.start_at > coalesce($1, now()) THEN s.start_at
                         WHEN s.delay > interval '0' THEN coalesce($1, now()) + s.delay END AS run_at, s.*
                FROM (
                    SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::smallint[], $6::text[], $7::text[],
                        $8::timestamptz[], $9::interval[], $10::timestamptz[], $11::integer[], $12::bigint[], $13::bigint[])
                    WITH ORDINALITY AS batch (tenant, task_type, queue, priority, input, metadata,
                        start_at, delay, expires_at, max_attempts, soft_time_limit, time_limit, place)
                    ORDER BY place
                ) s
            ), kept AS (
                INSERT INTO task (id, created_at, expires_at, soft_time_limit, time_limit, max_attempts, priority,
                    tenant, task_type, queue, input, metadata)
                SELECT id, created_at, expires_at, soft_time_limit, time_limit, max_attempts, priority,
                    tenant, task_type, queue, input, metadata
                FROM submitted
            ), begun AS (
                INSERT INTO live (id, tenant, queue, priority, ready, due_at, expires_at)
                SELECT id, tenant, queue, priority, run_at IS NULL, run_at, expires_at FROM submitted
            ), tallied AS (
                INSERT INTO tally_delta (tenant, queue, scheduled, pending)
                SELECT tenant, queue, count(run_at), count(*) - count(run_at) FROM submitted GROUP BY tenant, queue
            )
            SELECT id, created_at, run_at FROM submitted ORDER BY place",
        )
        .bind(self.clock.bind())
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
        .fetch_all(connection)
        .await?;
        rows.iter()
            .map(|row| {
                Ok(Receipt {
                    id: TaskId(field(row, "id")?),
                    created_at: field(row, "created_at")?,
                    run_at: field(row, "run_at")?,
                })
            })
            .collect()
    }
}

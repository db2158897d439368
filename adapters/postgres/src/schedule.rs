//! Schedules as their owners write and read them. How they are fired is in [`crate::fire`].

use std::time::Duration;

use application::ports::{DueSchedule, Fired, Firing, FiringRecord, Put, ScheduleStore, StoreError};
use async_trait::async_trait;
use domain::{
    Json, TaskId, Tenant, Timestamp,
    schedule::{Cadence, CatchUp, NewSchedule, Overlap, Schedule, ScheduleId, ScheduleName, Template},
};
use sqlx::{PgConnection, postgres::PgRow};

use crate::{
    PostgresStore,
    clock::Clock,
    connections::Operation,
    error::Fault,
    rows::{self, field, integer, limit, micros, moment},
};

struct PutSchedule {
    spec: NewSchedule,
    next_tick: Option<Timestamp>,
    clock: Clock,
}

impl Operation for PutSchedule {
    type Output = Put;

    async fn run(&self, connection: &mut PgConnection) -> Result<Put, Fault> {
        let NewSchedule { tenant, name, cadence, catch_up, overlap, jitter, template, paused, configured } =
            &self.spec;
        let (cron, zone, every, from) = match cadence {
            Cadence::Cron { expression, zone } => (Some(expression.as_str()), Some(zone.name()), None, None),
            Cadence::Every { interval, from } => {
                let millis = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX);
                (None, None, Some(millis), Some(moment(*from)))
            }
        };
        // `xmax` is zero in a row that was inserted, not updated.
        let row = sqlx::query(
            "INSERT INTO schedule AS s (next_tick, created_at, updated_at, every_ms, every_from, cron, time_zone,
                soft_time_limit, time_limit, max_attempts, priority, paused, catch_up, overlap, tenant, name, task_type,
                queue, input, metadata, retry, keep_for, jitter_ms, configured)
             VALUES ($2, coalesce($1, now()), coalesce($1, now()), $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
                $16, $17, $18, $19, $20, $21, $22, $23)
             ON CONFLICT (tenant, name) DO UPDATE SET revision = s.revision + 1, next_tick = excluded.next_tick,
                updated_at = excluded.updated_at, every_ms = excluded.every_ms, every_from = excluded.every_from,
                cron = excluded.cron, time_zone = excluded.time_zone, soft_time_limit = excluded.soft_time_limit,
                time_limit = excluded.time_limit, max_attempts = excluded.max_attempts, priority = excluded.priority,
                paused = excluded.paused, catch_up = excluded.catch_up, overlap = excluded.overlap,
                task_type = excluded.task_type, queue = excluded.queue, input = excluded.input,
                metadata = excluded.metadata, retry = excluded.retry, keep_for = excluded.keep_for,
                jitter_ms = excluded.jitter_ms, configured = excluded.configured
             RETURNING s.*, xmax = 0 AS created",
        )
        .bind(self.clock.bind())
        .bind(self.next_tick.map(moment))
        .bind(every)
        .bind(from)
        .bind(cron)
        .bind(zone)
        .bind(template.limits.soft_time_limit.map(micros))
        .bind(micros(template.limits.time_limit))
        .bind(integer(template.limits.max_attempts))
        .bind(i16::from(template.priority.get()))
        .bind(paused)
        .bind(catch_up.as_str())
        .bind(overlap.as_str())
        .bind(tenant.as_str())
        .bind(name.as_str())
        .bind(template.task_type.as_str())
        .bind(template.queue.as_str())
        .bind(template.input.as_str())
        .bind(template.metadata.as_ref().map(Json::as_str))
        .bind(rows::retry_text(&template.own))
        .bind(template.own.keep_for.map(micros))
        .bind(Some(i64::try_from(jitter.as_millis()).unwrap_or(i64::MAX)).filter(|millis| *millis > 0))
        .bind(configured)
        .fetch_one(connection)
        .await?;
        let schedule = read_schedule(&row)?;
        Ok(if field(&row, "created")? { Put::Created(schedule) } else { Put::Replaced(schedule) })
    }
}

struct ReadSchedules {
    tenant: Tenant,
    wanted: Wanted,
}

enum Wanted {
    Named(ScheduleName),
    After(Option<ScheduleName>, usize),
}

impl Operation for ReadSchedules {
    type Output = Vec<Schedule>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<Schedule>, Fault> {
        let query = match &self.wanted {
            Wanted::Named(name) => sqlx::query("SELECT * FROM schedule WHERE tenant = $1 AND name = $2")
                .bind(self.tenant.as_str())
                .bind(name.as_str()),
            Wanted::After(after, most) => {
                sqlx::query("SELECT * FROM schedule WHERE tenant = $1 AND name > $2 ORDER BY name LIMIT $3")
                    .bind(self.tenant.as_str())
                    .bind(after.as_ref().map_or("", |name| name.as_str()))
                    .bind(limit(*most))
            }
        };
        query.fetch_all(connection).await?.iter().map(read_schedule).collect()
    }
}

struct RemoveSchedule {
    tenant: Tenant,
    name: ScheduleName,
}

impl Operation for RemoveSchedule {
    type Output = bool;

    async fn run(&self, connection: &mut PgConnection) -> Result<bool, Fault> {
        let removed = sqlx::query("DELETE FROM schedule WHERE tenant = $1 AND name = $2")
            .bind(self.tenant.as_str())
            .bind(self.name.as_str())
            .execute(connection)
            .await?;
        Ok(removed.rows_affected() > 0)
    }
}

/// A row of `schedule`.
pub(crate) fn read_schedule(row: &PgRow) -> Result<Schedule, Fault> {
    let id: i64 = field(row, "id")?;
    let spec = read_spec(row).map_err(|fault| match fault {
        Fault::Unreadable(what) => Fault::Unreadable(format!("schedule {id}: {what}")),
        other => other,
    })?;
    Ok(Schedule {
        id: ScheduleId(id),
        spec,
        revision: field(row, "revision")?,
        next_tick: field(row, "next_tick")?,
        last_tick: field(row, "last_tick")?,
        last_task: field::<Option<i64>>(row, "last_task")?.map(TaskId),
        created_at: field(row, "created_at")?,
        updated_at: field(row, "updated_at")?,
    })
}

fn read_spec(row: &PgRow) -> Result<NewSchedule, Fault> {
    let cadence = match (field::<Option<&str>>(row, "cron")?, field::<Option<i64>>(row, "every_ms")?) {
        (Some(cron), _) => Cadence::cron(cron, field(row, "time_zone")?),
        (None, Some(millis)) => {
            Cadence::every(Duration::from_millis(millis.unsigned_abs()), field(row, "every_from")?)
        }
        (None, None) => return Err(Fault::Unreadable("it has no cadence".into())),
    };
    let word = |column, text: &str| Fault::Unreadable(format!("{column} {text:?} is not known here"));
    let (catch_up, overlap): (&str, &str) = (field(row, "catch_up")?, field(row, "overlap")?);
    Ok(NewSchedule {
        tenant: rows::name(row, "tenant")?,
        name: rows::name(row, "name")?,
        cadence: cadence.map_err(|error| Fault::Unreadable(error.to_string()))?,
        catch_up: CatchUp::parse(catch_up).ok_or_else(|| word("catch_up", catch_up))?,
        overlap: Overlap::parse(overlap).ok_or_else(|| word("overlap", overlap))?,
        template: Template {
            task_type: rows::name(row, "task_type")?,
            queue: rows::name(row, "queue")?,
            priority: rows::priority(row)?,
            input: Json::from_stored(field(row, "input")?),
            metadata: field::<Option<String>>(row, "metadata")?.map(Json::from_stored),
            limits: rows::limits(row)?,
            own: rows::own_terms(row)?,
        },
        jitter: Duration::from_millis(field::<Option<i64>>(row, "jitter_ms")?.unwrap_or(0).unsigned_abs()),
        paused: field(row, "paused")?,
        configured: field::<Option<bool>>(row, "configured")?.unwrap_or(false),
    })
}

#[async_trait]
impl ScheduleStore for PostgresStore {
    async fn put_schedule(
        &self,
        spec: &NewSchedule,
        next_tick: Option<Timestamp>,
    ) -> Result<Put, StoreError> {
        self.connections.run(PutSchedule { spec: spec.clone(), next_tick, clock: self.clock.clone() }).await
    }

    async fn schedule(&self, tenant: &Tenant, name: &ScheduleName) -> Result<Option<Schedule>, StoreError> {
        let wanted = Wanted::Named(name.clone());
        Ok(self.connections.run(ReadSchedules { tenant: tenant.clone(), wanted }).await?.pop())
    }

    async fn schedules(
        &self,
        tenant: &Tenant,
        after: Option<ScheduleName>,
        limit: usize,
    ) -> Result<Vec<Schedule>, StoreError> {
        let wanted = Wanted::After(after, limit);
        self.connections.run(ReadSchedules { tenant: tenant.clone(), wanted }).await
    }

    async fn remove_schedule(&self, tenant: &Tenant, name: &ScheduleName) -> Result<bool, StoreError> {
        self.connections.run(RemoveSchedule { tenant: tenant.clone(), name: name.clone() }).await
    }

    async fn due_schedules(&self, limit: usize) -> Result<Vec<DueSchedule>, StoreError> {
        self.schedules_to_fire(limit).await
    }

    async fn fire(&self, firing: &Firing) -> Result<Fired, StoreError> {
        self.fire_schedule(firing).await
    }

    async fn firings(
        &self,
        tenant: &Tenant,
        name: &ScheduleName,
        before: Option<Timestamp>,
        limit: usize,
    ) -> Result<Option<Vec<FiringRecord>>, StoreError> {
        self.firings_of(tenant, name, before, limit).await
    }
}

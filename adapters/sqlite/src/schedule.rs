//! Schedules as their owners write and read them. How they are fired is in [`crate::fire`].

use std::time::Duration;

use application::ports::{DueSchedule, Fired, Firing, FiringRecord, Put, ScheduleStore, StoreError};
use async_trait::async_trait;
use domain::{
    Json, RetryTerms, TaskId, Tenant, Timestamp,
    schedule::{Cadence, CatchUp, NewSchedule, Overlap, Schedule, ScheduleId, ScheduleName, Template},
};
use sqlx::SqliteConnection;

use crate::{
    clock::micros,
    error::store_error,
    fire::{Due, Fire, Firings},
    read::{limits, own_terms},
    rows::{moment, moment_if, parse_name, parse_priority, parse_queue, unreadable},
    store::{Query, SqliteStore},
    writer::{Change, Write},
};

struct PutSchedule {
    spec: NewSchedule,
    next_tick: Option<Timestamp>,
}

#[async_trait]
impl Change for PutSchedule {
    type Answer = Put;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "
            INSERT INTO schedule (tenant, name, next_tick, every_ms, every_from, cron, time_zone, catch_up, overlap,
                paused, type, queue, priority, input, metadata, max_attempts, soft_time_limit, time_limit, retry,
                keep_for, jitter_ms, configured, created_at, updated_at)
            VALUES (?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?1, ?1)
            ON CONFLICT (tenant, name) DO UPDATE SET revision = revision + 1, next_tick = excluded.next_tick,
                every_ms = excluded.every_ms, every_from = excluded.every_from, cron = excluded.cron,
                time_zone = excluded.time_zone, catch_up = excluded.catch_up, overlap = excluded.overlap,
                paused = excluded.paused, type = excluded.type, queue = excluded.queue, priority = excluded.priority,
                input = excluded.input, metadata = excluded.metadata, max_attempts = excluded.max_attempts,
                soft_time_limit = excluded.soft_time_limit, time_limit = excluded.time_limit,
                retry = excluded.retry, keep_for = excluded.keep_for, jitter_ms = excluded.jitter_ms,
                configured = excluded.configured, updated_at = excluded.updated_at
            RETURNING *";
        let NewSchedule { tenant, name, cadence, catch_up, overlap, jitter, template, paused, configured } =
            &self.spec;
        let (cron, zone, every, from) = match cadence {
            Cadence::Cron { expression, zone } => (Some(expression.as_str()), Some(zone.name()), None, None),
            Cadence::Every { interval, from } => {
                let millis = i64::try_from(interval.as_millis()).unwrap_or(i64::MAX);
                (None, None, Some(millis), Some(from.timestamp_micros()))
            }
        };
        let row: ScheduleRow = sqlx::query_as(SQL)
            .bind(write.now)
            .bind(tenant.as_str())
            .bind(name.as_str())
            .bind(self.next_tick.map(|tick| tick.timestamp_micros()))
            .bind(every)
            .bind(from)
            .bind(cron)
            .bind(zone)
            .bind(catch_up.as_str())
            .bind(overlap.as_str())
            .bind(paused)
            .bind(template.task_type.as_str())
            .bind(template.queue.as_str())
            .bind(template.priority.get())
            .bind(template.input.as_str())
            .bind(template.metadata.as_ref().map(Json::as_str))
            .bind(template.limits.max_attempts)
            .bind(template.limits.soft_time_limit.map(micros))
            .bind(micros(template.limits.time_limit))
            .bind(template.own.retry.as_ref().map(|policy| RetryTerms::from(policy).to_text()))
            .bind(template.own.keep_for.map(micros))
            .bind(Some(i64::try_from(jitter.as_millis()).unwrap_or(i64::MAX)).filter(|millis| *millis > 0))
            .bind(configured)
            .fetch_one(&mut *write.conn)
            .await
            .map_err(store_error)?;
        let schedule = row.read()?;
        Ok(if schedule.revision == 1 { Put::Created(schedule) } else { Put::Replaced(schedule) })
    }
}

struct RemoveSchedule {
    tenant: Tenant,
    name: ScheduleName,
}

#[async_trait]
impl Change for RemoveSchedule {
    type Answer = bool;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "DELETE FROM schedule WHERE tenant = ?1 AND name = ?2";
        let query = sqlx::query(SQL).bind(self.tenant.as_str()).bind(self.name.as_str());
        Ok(query.execute(&mut *write.conn).await.map_err(store_error)?.rows_affected() > 0)
    }
}

struct OneSchedule {
    tenant: Tenant,
    name: ScheduleName,
}

#[async_trait]
impl Query for OneSchedule {
    type Answer = Option<Schedule>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "SELECT * FROM schedule WHERE tenant = ?1 AND name = ?2";
        let row: Option<ScheduleRow> = sqlx::query_as(SQL)
            .bind(self.tenant.as_str())
            .bind(self.name.as_str())
            .fetch_optional(snapshot)
            .await
            .map_err(store_error)?;
        row.map(ScheduleRow::read).transpose()
    }
}

struct SchedulesAfter {
    tenant: Tenant,
    after: Option<ScheduleName>,
    limit: usize,
}

#[async_trait]
impl Query for SchedulesAfter {
    type Answer = Vec<Schedule>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "SELECT * FROM schedule WHERE tenant = ?1 AND name > ?2 ORDER BY name LIMIT ?3";
        let rows: Vec<ScheduleRow> = sqlx::query_as(SQL)
            .bind(self.tenant.as_str())
            .bind(self.after.as_ref().map_or("", |name| name.as_str()))
            .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .fetch_all(snapshot)
            .await
            .map_err(store_error)?;
        rows.into_iter().map(ScheduleRow::read).collect()
    }
}

#[derive(sqlx::FromRow)]
pub(crate) struct ScheduleRow {
    id: i64,
    tenant: String,
    name: String,
    revision: i64,
    next_tick: Option<i64>,
    last_tick: Option<i64>,
    last_task: Option<i64>,
    every_ms: Option<i64>,
    every_from: Option<i64>,
    cron: Option<String>,
    time_zone: Option<String>,
    catch_up: String,
    overlap: String,
    paused: bool,
    #[sqlx(rename = "type")]
    task_type: String,
    queue: String,
    priority: i64,
    input: String,
    metadata: Option<String>,
    max_attempts: i64,
    soft_time_limit: Option<i64>,
    time_limit: i64,
    retry: Option<String>,
    keep_for: Option<i64>,
    jitter_ms: Option<i64>,
    configured: Option<bool>,
    created_at: i64,
    updated_at: i64,
}

impl ScheduleRow {
    pub(crate) fn read(self) -> Result<Schedule, StoreError> {
        let cadence = match (&self.cron, &self.time_zone, self.every_ms, self.every_from) {
            (Some(cron), Some(zone), ..) => Cadence::cron(cron, zone),
            (_, _, Some(millis), Some(from)) => {
                Cadence::every(Duration::from_millis(millis.unsigned_abs()), moment(from)?)
            }
            _ => return Err(StoreError::Corrupt(format!("schedule {} has no cadence", self.id))),
        };
        let cadence =
            cadence.map_err(|error| StoreError::Corrupt(format!("schedule {}: {error}", self.id)))?;
        let template = Template {
            task_type: parse_name(&self.task_type)?,
            queue: parse_queue(&self.queue)?,
            priority: parse_priority(self.priority)?,
            input: Json::from_stored(self.input),
            metadata: self.metadata.map(Json::from_stored),
            limits: limits(self.max_attempts, self.soft_time_limit, self.time_limit)?,
            own: own_terms(self.retry.as_deref(), self.keep_for)?,
        };
        let spec = NewSchedule {
            tenant: parse_name(&self.tenant)?,
            name: parse_name(&self.name)?,
            cadence,
            catch_up: CatchUp::parse(&self.catch_up)
                .ok_or_else(|| unreadable("what becomes of missed ticks", &self.catch_up))?,
            overlap: Overlap::parse(&self.overlap)
                .ok_or_else(|| unreadable("what becomes of overlapping ticks", &self.overlap))?,
            jitter: Duration::from_millis(self.jitter_ms.unwrap_or(0).unsigned_abs()),
            template,
            paused: self.paused,
            configured: self.configured.unwrap_or(false),
        };
        Ok(Schedule {
            id: ScheduleId(self.id),
            spec,
            revision: self.revision,
            next_tick: moment_if(self.next_tick)?,
            last_tick: moment_if(self.last_tick)?,
            last_task: self.last_task.map(TaskId),
            created_at: moment(self.created_at)?,
            updated_at: moment(self.updated_at)?,
        })
    }
}

#[async_trait]
impl ScheduleStore for SqliteStore {
    async fn put_schedule(
        &self,
        spec: &NewSchedule,
        next_tick: Option<Timestamp>,
    ) -> Result<Put, StoreError> {
        self.write(PutSchedule { spec: spec.clone(), next_tick }).await
    }

    async fn schedule(&self, tenant: &Tenant, name: &ScheduleName) -> Result<Option<Schedule>, StoreError> {
        self.query(OneSchedule { tenant: tenant.clone(), name: name.clone() }).await
    }

    async fn schedules(
        &self,
        tenant: &Tenant,
        after: Option<ScheduleName>,
        limit: usize,
    ) -> Result<Vec<Schedule>, StoreError> {
        self.query(SchedulesAfter { tenant: tenant.clone(), after, limit }).await
    }

    async fn remove_schedule(&self, tenant: &Tenant, name: &ScheduleName) -> Result<bool, StoreError> {
        self.write(RemoveSchedule { tenant: tenant.clone(), name: name.clone() }).await
    }

    async fn due_schedules(&self, limit: usize) -> Result<Vec<DueSchedule>, StoreError> {
        self.query(Due { now: self.now(), limit }).await
    }

    async fn fire(&self, firing: &Firing) -> Result<Fired, StoreError> {
        self.write(Fire { firing: firing.clone() }).await
    }

    async fn firings(
        &self,
        tenant: &Tenant,
        name: &ScheduleName,
        before: Option<Timestamp>,
        limit: usize,
    ) -> Result<Option<Vec<FiringRecord>>, StoreError> {
        self.query(Firings { tenant: tenant.clone(), name: name.clone(), before, limit }).await
    }
}

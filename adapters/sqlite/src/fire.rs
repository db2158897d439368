//! Firing schedules: a plan is written whole, where the schedule still stands as the plan assumed.

use application::ports::{DueSchedule, Fired, Firing, FiringRecord, StoreError, Submitted};
use async_trait::async_trait;
use domain::{
    TaskId, Tenant, Timestamp,
    schedule::{ScheduleName, SkipReason, Skipped},
};
use sqlx::SqliteConnection;

use crate::{
    error::store_error,
    rows::{moment, unreadable},
    schedule::ScheduleRow,
    store::Query,
    submit::store,
    writer::{Change, Write},
};

/// How long it is kept what became of a tick, in microseconds: 30 days.
const KEPT: i64 = 30 * 24 * 3600 * 1_000_000;

/// Schedules whose tick has come.
pub(crate) struct Due {
    pub(crate) now: i64,
    pub(crate) limit: usize,
}

#[derive(sqlx::FromRow)]
struct DueRow {
    #[sqlx(flatten)]
    schedule: ScheduleRow,
    running: bool,
}

#[async_trait]
impl Query for Due {
    type Answer = Vec<DueSchedule>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "
            SELECT s.*, EXISTS (SELECT 1 FROM live WHERE live.task = s.last_task) AS running
            FROM schedule AS s WHERE s.next_tick <= ?1 ORDER BY s.next_tick, s.id LIMIT ?2";
        let rows: Vec<DueRow> = sqlx::query_as(SQL)
            .bind(self.now)
            .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .fetch_all(snapshot)
            .await
            .map_err(store_error)?;
        let now = moment(self.now)?;
        let mut due = Vec::with_capacity(rows.len());
        for row in rows {
            match row.schedule.read() {
                Ok(schedule) => due.push(DueSchedule { schedule, running: row.running, now }),
                // One that a newer version wrote must not hold up the others.
                Err(error) => tracing::error!(%error, "a schedule cannot be fired"),
            }
        }
        Ok(due)
    }
}

/// Writes a plan.
pub(crate) struct Fire {
    pub(crate) firing: Firing,
}

#[async_trait]
impl Change for Fire {
    type Answer = Fired;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        const MOVE_ON: &str = "
            UPDATE schedule SET revision = revision + 1, next_tick = ?3 WHERE id = ?1 AND revision = ?2";
        const RECORD: &str = "
            INSERT INTO firing (schedule, tick, at, task, until, ticks, reason) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
        const LAST: &str = "UPDATE schedule SET last_tick = ?2, last_task = ?3 WHERE id = ?1";
        const FORGET: &str = "DELETE FROM firing WHERE schedule = ?1 AND tick < ?2";
        let Firing { schedule, revision, tasks, skipped, next_tick } = &self.firing;
        let moved = sqlx::query(MOVE_ON)
            .bind(schedule.0)
            .bind(revision)
            .bind(next_tick.map(|tick| tick.timestamp_micros()))
            .execute(&mut *write.conn)
            .await
            .map_err(store_error)?;
        if moved.rows_affected() == 0 {
            return Ok(Fired::Stale);
        }
        let outcomes = store(write, tasks.iter().map(|(_, task)| task)).await?;
        let receipts: Vec<_> = outcomes
            .into_iter()
            .filter_map(|outcome| match outcome {
                Submitted::New(receipt) => Some(receipt),
                Submitted::Replayed(_) | Submitted::KeyReused(_) | Submitted::Existing(_) => None,
            })
            .collect();
        for ((tick, _), receipt) in tasks.iter().zip(&receipts) {
            let record = sqlx::query(RECORD).bind(schedule.0).bind(tick.timestamp_micros()).bind(write.now);
            let record = record.bind(receipt.id.0).bind(None::<i64>).bind(None::<i64>).bind(None::<&str>);
            record.execute(&mut *write.conn).await.map_err(store_error)?;
        }
        for run in skipped {
            let record =
                sqlx::query(RECORD).bind(schedule.0).bind(run.first.timestamp_micros()).bind(write.now);
            let record = record.bind(None::<i64>).bind(run.last.timestamp_micros());
            let record = record.bind(i64::from(run.count)).bind(run.reason.as_str());
            record.execute(&mut *write.conn).await.map_err(store_error)?;
        }
        if let (Some((tick, _)), Some(receipt)) = (tasks.last(), receipts.last()) {
            let last = sqlx::query(LAST).bind(schedule.0).bind(tick.timestamp_micros()).bind(receipt.id.0);
            last.execute(&mut *write.conn).await.map_err(store_error)?;
        }
        let forget = sqlx::query(FORGET).bind(schedule.0).bind(write.now.saturating_sub(KEPT));
        forget.execute(&mut *write.conn).await.map_err(store_error)?;
        Ok(Fired::Yes(receipts))
    }
}

/// What became of a schedule's ticks, the latest first.
pub(crate) struct Firings {
    pub(crate) tenant: Tenant,
    pub(crate) name: ScheduleName,
    pub(crate) before: Option<Timestamp>,
    pub(crate) limit: usize,
}

#[derive(sqlx::FromRow)]
struct FiringRow {
    tick: i64,
    at: i64,
    task: Option<i64>,
    until: Option<i64>,
    ticks: Option<i64>,
    reason: Option<String>,
}

#[async_trait]
impl Query for Firings {
    type Answer = Option<Vec<FiringRecord>>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        const SCHEDULE: &str = "SELECT id FROM schedule WHERE tenant = ?1 AND name = ?2";
        const SQL: &str = "
            SELECT tick, at, task, until, ticks, reason FROM firing
            WHERE schedule = ?1 AND tick < ?2 ORDER BY tick DESC LIMIT ?3";
        let schedule: Option<i64> = sqlx::query_scalar(SCHEDULE)
            .bind(self.tenant.as_str())
            .bind(self.name.as_str())
            .fetch_optional(&mut *snapshot)
            .await
            .map_err(store_error)?;
        let Some(schedule) = schedule else { return Ok(None) };
        let rows: Vec<FiringRow> = sqlx::query_as(SQL)
            .bind(schedule)
            .bind(self.before.map_or(i64::MAX, |before| before.timestamp_micros()))
            .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .fetch_all(snapshot)
            .await
            .map_err(store_error)?;
        rows.into_iter().map(FiringRow::read).collect::<Result<_, _>>().map(Some)
    }
}

impl FiringRow {
    fn read(self) -> Result<FiringRecord, StoreError> {
        let (tick, at) = (moment(self.tick)?, moment(self.at)?);
        if let Some(task) = self.task {
            return Ok(FiringRecord::Fired { tick, task: TaskId(task), at });
        }
        let reason = self.reason.as_deref().and_then(SkipReason::parse);
        let run = Skipped {
            first: tick,
            last: moment(self.until.unwrap_or(self.tick))?,
            count: u32::try_from(self.ticks.unwrap_or(1)).unwrap_or(u32::MAX),
            reason: reason.ok_or_else(|| unreadable("why a tick was skipped", &self.reason))?,
        };
        Ok(FiringRecord::Skipped { run, at })
    }
}

//! Firing schedules: a plan is written whole, by whoever comes first. The row's revision says who that is, and the key of
//! `firing` would refuse a second one.

use application::ports::{DueSchedule, Fired, Firing, FiringRecord, Receipt, StoreError};
use domain::{
    TaskId, Tenant, Timestamp,
    schedule::{ScheduleName, SkipReason, Skipped},
};
use sqlx::{Connection, PgConnection, postgres::PgRow};

use crate::{
    PostgresStore,
    clock::Clock,
    connections::Operation,
    error::Fault,
    rows::{field, limit, moment},
    schedule::read_schedule,
    submit::insert_with_keys,
};

/// How long it is kept what became of a tick.
const KEPT: &str = "30 days";

pub(crate) const DUE_SCHEDULES: &str = "
SELECT s.*, coalesce($1, now()) AS now, EXISTS (SELECT FROM live WHERE live.id = s.last_task) AS running
FROM schedule s WHERE s.next_tick <= coalesce($1, now()) ORDER BY s.next_tick, s.id LIMIT $2";

struct FindDue {
    limit: usize,
    clock: Clock,
}

impl Operation for FindDue {
    type Output = Vec<DueSchedule>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<DueSchedule>, Fault> {
        let query = sqlx::query(DUE_SCHEDULES).bind(self.clock.bind()).bind(limit(self.limit));
        let mut due = Vec::new();
        for row in &query.fetch_all(connection).await? {
            match read_schedule(row) {
                Ok(schedule) => {
                    due.push(DueSchedule {
                        schedule,
                        running: field(row, "running")?,
                        now: field(row, "now")?,
                    });
                }
                // One that a newer version wrote must not hold up the others.
                Err(fault) => tracing::error!(error = %StoreError::from(fault), "a schedule cannot be fired"),
            }
        }
        Ok(due)
    }
}

struct Fire {
    firing: Firing,
    clock: Clock,
}

impl Operation for Fire {
    type Output = Fired;

    async fn run(&self, connection: &mut PgConnection) -> Result<Fired, Fault> {
        let Firing { schedule, revision, tasks, skipped, next_tick } = &self.firing;
        let now = self.clock.bind();
        let mut transaction = connection.begin().await?;
        // Whoever comes second waits here for the first, and then finds another revision.
        let mine = sqlx::query("SELECT id FROM schedule WHERE id = $1 AND revision = $2 FOR UPDATE")
            .bind(schedule.0)
            .bind(revision)
            .fetch_optional(&mut *transaction)
            .await?;
        if mine.is_none() {
            // At once: who waited for the first one's lock has it now, although the row is another one by then.
            transaction.rollback().await?;
            return Ok(Fired::Stale);
        }
        let new: Vec<_> = tasks.iter().map(|(_, task)| task).collect();
        let receipts =
            if new.is_empty() { Vec::new() } else { insert_with_keys(&mut transaction, &new, now).await? };
        let ticks: Vec<Timestamp> = tasks.iter().map(|(tick, _)| moment(*tick)).collect();
        let ids: Vec<i64> = receipts.iter().map(|receipt: &Receipt| receipt.id.0).collect();
        sqlx::query(
            "INSERT INTO firing (schedule, tick, at, task, until, ticks, reason)
             SELECT $1, tick, coalesce($2, now()), task, NULL, NULL, NULL
             FROM unnest($3::timestamptz[], $4::bigint[]) AS fired (tick, task)
             UNION ALL
             SELECT $1, tick, coalesce($2, now()), NULL, until, ticks, reason
             FROM unnest($5::timestamptz[], $6::timestamptz[], $7::integer[], $8::text[]) AS skipped (tick, until, ticks, reason)",
        )
        .bind(schedule.0)
        .bind(now)
        .bind(&ticks)
        .bind(&ids)
        .bind(skipped.iter().map(|run| moment(run.first)).collect::<Vec<_>>())
        .bind(skipped.iter().map(|run| moment(run.last)).collect::<Vec<_>>())
        .bind(skipped.iter().map(|run| i32::try_from(run.count).unwrap_or(i32::MAX)).collect::<Vec<_>>())
        .bind(skipped.iter().map(|run| run.reason.as_str()).collect::<Vec<_>>())
        .execute(&mut *transaction)
        .await?;
        sqlx::query("DELETE FROM firing WHERE schedule = $1 AND tick < coalesce($2, now()) - $3::interval")
            .bind(schedule.0)
            .bind(now)
            .bind(KEPT)
            .execute(&mut *transaction)
            .await?;
        sqlx::query(
            "UPDATE schedule SET revision = revision + 1, next_tick = $2, last_tick = coalesce($3, last_tick),
                last_task = coalesce($4, last_task)
             WHERE id = $1",
        )
        .bind(schedule.0)
        .bind(next_tick.map(moment))
        .bind(ticks.last())
        .bind(ids.last())
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok(Fired::Yes(receipts))
    }
}

struct ReadFirings {
    tenant: Tenant,
    name: ScheduleName,
    before: Option<Timestamp>,
    limit: usize,
}

impl Operation for ReadFirings {
    type Output = Option<Vec<FiringRecord>>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Output, Fault> {
        let schedule: Option<i64> =
            sqlx::query_scalar("SELECT id FROM schedule WHERE tenant = $1 AND name = $2")
                .bind(self.tenant.as_str())
                .bind(self.name.as_str())
                .fetch_optional(&mut *connection)
                .await?;
        let Some(schedule) = schedule else { return Ok(None) };
        let rows = sqlx::query(
            "SELECT * FROM firing WHERE schedule = $1 AND tick < coalesce($2, 'infinity') ORDER BY tick DESC LIMIT $3",
        )
        .bind(schedule)
        .bind(self.before.map(moment))
        .bind(limit(self.limit))
        .fetch_all(connection)
        .await?;
        rows.iter().map(read_firing).collect::<Result<_, _>>().map(Some)
    }
}

fn read_firing(row: &PgRow) -> Result<FiringRecord, Fault> {
    let (tick, at) = (field(row, "tick")?, field(row, "at")?);
    if let Some(task) = field::<Option<i64>>(row, "task")? {
        return Ok(FiringRecord::Fired { tick, task: TaskId(task), at });
    }
    let (reason, ticks): (&str, i32) = (field(row, "reason")?, field(row, "ticks")?);
    let unknown =
        || Fault::Unreadable(format!("a tick was skipped for a reason {reason:?} that is not known here"));
    let run = Skipped {
        first: tick,
        last: field(row, "until")?,
        count: ticks.unsigned_abs(),
        reason: SkipReason::parse(reason).ok_or_else(unknown)?,
    };
    Ok(FiringRecord::Skipped { run, at })
}

impl PostgresStore {
    pub(crate) async fn schedules_to_fire(&self, limit: usize) -> Result<Vec<DueSchedule>, StoreError> {
        self.connections.run(FindDue { limit, clock: self.clock.clone() }).await
    }

    pub(crate) async fn fire_schedule(&self, firing: &Firing) -> Result<Fired, StoreError> {
        self.tallied();
        self.connections.run(Fire { firing: firing.clone(), clock: self.clock.clone() }).await
    }

    pub(crate) async fn firings_of(
        &self,
        tenant: &Tenant,
        name: &ScheduleName,
        before: Option<Timestamp>,
        limit: usize,
    ) -> Result<Option<Vec<FiringRecord>>, StoreError> {
        let (tenant, name) = (tenant.clone(), name.clone());
        self.connections.run(ReadFirings { tenant, name, before, limit }).await
    }
}

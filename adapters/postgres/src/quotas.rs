//! Providers' quotas. A call locks the meters that it names, in one order for all, and goes through its steps.

use std::{collections::BTreeMap, time::Duration};

use application::ports::{Metered, QuotaStore, StoreError, take_steps};
use async_trait::async_trait;
use domain::{
    Timestamp,
    ai::{Meter, Verdict},
};
use sqlx::{Connection, PgConnection, postgres::PgRow};

use crate::{
    PostgresStore,
    clock::Clock,
    connections::Operation,
    error::Fault,
    rows::{field, interval, limit},
};

struct TakeSteps {
    steps: Vec<Metered>,
    clock: Clock,
}

pub(crate) const LOCK: &str = "SELECT name, state FROM meter WHERE name = ANY($1) ORDER BY name FOR UPDATE";
pub(crate) const MAKE: &str = "
INSERT INTO meter (name, used_at, state) SELECT name, $2, '{}' FROM unnest($1::text[]) AS new (name)
ORDER BY name ON CONFLICT DO NOTHING";
pub(crate) const KEEP: &str = "
UPDATE meter SET state = kept.state, used_at = $3 FROM unnest($1::text[], $2::text[]) AS kept (name, state)
WHERE meter.name = kept.name";

impl Operation for TakeSteps {
    type Output = Vec<Verdict>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<Verdict>, Fault> {
        let names: Vec<&str> = self.steps.iter().map(|step| step.meter.as_str()).collect();
        let mut transaction = connection.begin().await?;
        // What a crash of the server takes with it is a moment's use. Nobody waits for the disk because of it.
        sqlx::raw_sql("SET LOCAL synchronous_commit = off").execute(&mut *transaction).await?;
        loop {
            let kept = locked(&mut transaction, &names).await?;
            // Read behind the locks: later than what all those before have seen.
            let now = sqlx::query_scalar::<_, Timestamp>("SELECT coalesce($1, clock_timestamp())");
            let now = now.bind(self.clock.bind()).fetch_one(&mut *transaction).await?;
            let (verdicts, changed) = take_steps(&kept, &self.steps, now);
            let (names, meters): (Vec<&str>, Vec<&Meter>) =
                changed.iter().map(|(name, meter)| (name.as_str(), meter)).unzip();
            // A row is made where there is something to keep, and locked before it is looked at.
            if names.iter().any(|name| !kept.contains_key(*name)) {
                sqlx::query(MAKE).bind(&names).bind(now).execute(&mut *transaction).await?;
                continue;
            }
            if !names.is_empty() {
                let states: Vec<String> = meters
                    .into_iter()
                    .map(serde_json::to_string)
                    .collect::<Result<_, _>>()
                    .map_err(unreadable)?;
                sqlx::query(KEEP).bind(&names).bind(states).bind(now).execute(&mut *transaction).await?;
            }
            transaction.commit().await?;
            return Ok(verdicts);
        }
    }
}

async fn locked(connection: &mut PgConnection, names: &[&str]) -> Result<BTreeMap<String, Meter>, Fault> {
    let rows = sqlx::query(LOCK).bind(names).fetch_all(connection).await?;
    rows.iter().map(meter).collect()
}

fn meter(row: &PgRow) -> Result<(String, Meter), Fault> {
    let (name, state): (String, &str) = (field(row, "name")?, field(row, "state")?);
    Ok((name, serde_json::from_str(state).map_err(unreadable)?))
}

fn unreadable(error: serde_json::Error) -> Fault {
    Fault::Unreadable(format!("a meter: {error}"))
}

pub(crate) const READ: &str = "SELECT name, state FROM meter WHERE name = ANY($1)";

struct ReadMeters {
    names: Vec<String>,
}

impl Operation for ReadMeters {
    type Output = Vec<(String, Meter)>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Output, Fault> {
        let rows = sqlx::query(READ).bind(&self.names).fetch_all(connection).await?;
        rows.iter().map(meter).collect()
    }
}

struct Forget {
    age: Duration,
    limit: usize,
    clock: Clock,
}

impl Operation for Forget {
    type Output = usize;

    async fn run(&self, connection: &mut PgConnection) -> Result<usize, Fault> {
        // There are as many as there are quotas in the configuration, and models that providers have paused.
        let forget = "
            DELETE FROM meter WHERE name = ANY(ARRAY(
                SELECT name FROM meter WHERE used_at < coalesce($1, now()) - $2 ORDER BY name LIMIT $3
                FOR UPDATE SKIP LOCKED))";
        let query = sqlx::query(forget).bind(self.clock.bind()).bind(interval(self.age));
        let done = query.bind(limit(self.limit)).execute(connection).await?;
        Ok(usize::try_from(done.rows_affected()).unwrap_or(usize::MAX))
    }
}

#[async_trait]
impl QuotaStore for PostgresStore {
    async fn meter(&self, steps: &[Metered]) -> Result<Vec<Verdict>, StoreError> {
        self.connections.run(TakeSteps { steps: steps.to_vec(), clock: self.clock.clone() }).await
    }

    async fn read_meters(&self, names: &[String]) -> Result<Vec<(String, Meter)>, StoreError> {
        self.connections.run(ReadMeters { names: names.to_vec() }).await
    }

    async fn forget_meters(&self, age: Duration, limit: usize) -> Result<usize, StoreError> {
        self.connections.run(Forget { age, limit, clock: self.clock.clone() }).await
    }
}

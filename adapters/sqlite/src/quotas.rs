//! Providers' quotas.

use std::{collections::BTreeMap, time::Duration};

use application::ports::{Metered, QuotaStore, StoreError, take_steps};
use async_trait::async_trait;
use domain::ai::{Meter, Verdict};
use sqlx::SqliteConnection;

use crate::{
    clock::micros,
    error::store_error,
    rows::moment,
    store::{Query, SqliteStore},
    writer::{Change, Write},
};

struct TakeSteps {
    steps: Vec<Metered>,
}

#[async_trait]
impl Change for TakeSteps {
    type Answer = Vec<Verdict>;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        const READ: &str = "SELECT name, state FROM meter WHERE name IN (SELECT value FROM json_each(?1))";
        const KEEP: &str = "
            INSERT INTO meter (name, used_at, state) SELECT value ->> 0, ?2, value ->> 1 FROM json_each(?1) WHERE true
            ON CONFLICT (name) DO UPDATE SET used_at = excluded.used_at, state = excluded.state";
        let names: Vec<&str> = self.steps.iter().map(|step| step.meter.as_str()).collect();
        let names = serde_json::to_string(&names).map_err(broken)?;
        let read = sqlx::query_as::<_, (String, String)>(READ).bind(names);
        let kept = read.fetch_all(&mut *write.conn).await.map_err(store_error)?;
        let kept: BTreeMap<String, Meter> = kept
            .into_iter()
            .map(|(name, state)| Ok((name, serde_json::from_str(&state).map_err(broken)?)))
            .collect::<Result<_, StoreError>>()?;
        let (verdicts, changed) = take_steps(&kept, &self.steps, moment(write.now)?);
        if !changed.is_empty() {
            let states: Vec<(String, String)> = changed
                .into_iter()
                .map(|(name, meter)| Ok((name, serde_json::to_string(&meter).map_err(broken)?)))
                .collect::<Result<_, StoreError>>()?;
            let keep =
                sqlx::query(KEEP).bind(serde_json::to_string(&states).map_err(broken)?).bind(write.now);
            keep.execute(&mut *write.conn).await.map_err(store_error)?;
        }
        Ok(verdicts)
    }
}

struct Forget {
    age: Duration,
    limit: usize,
}

#[async_trait]
impl Change for Forget {
    type Answer = usize;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        const FORGET: &str = "
            DELETE FROM meter WHERE name IN (SELECT name FROM meter WHERE used_at < ?1 ORDER BY used_at LIMIT ?2)";
        let before = write.now.saturating_sub(micros(self.age));
        let query = sqlx::query(FORGET).bind(before).bind(i64::try_from(self.limit).unwrap_or(i64::MAX));
        let done = query.execute(&mut *write.conn).await.map_err(store_error)?;
        Ok(usize::try_from(done.rows_affected()).unwrap_or(usize::MAX))
    }
}

struct ReadMeters {
    names: Vec<String>,
}

#[async_trait]
impl Query for ReadMeters {
    type Answer = Vec<(String, Meter)>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "SELECT name, state FROM meter WHERE name IN (SELECT value FROM json_each(?1))";
        let names = serde_json::to_string(&self.names).map_err(broken)?;
        let read = sqlx::query_as::<_, (String, String)>(SQL).bind(names).fetch_all(snapshot).await;
        let meter =
            |(name, state): (String, String)| Ok((name, serde_json::from_str(&state).map_err(broken)?));
        read.map_err(store_error)?.into_iter().map(meter).collect()
    }
}

fn broken(error: serde_json::Error) -> StoreError {
    StoreError::Corrupt(format!("a meter: {error}"))
}

#[async_trait]
impl QuotaStore for SqliteStore {
    async fn meter(&self, steps: &[Metered]) -> Result<Vec<Verdict>, StoreError> {
        self.write(TakeSteps { steps: steps.to_vec() }).await
    }

    async fn read_meters(&self, names: &[String]) -> Result<Vec<(String, Meter)>, StoreError> {
        self.query(ReadMeters { names: names.to_vec() }).await
    }

    async fn forget_meters(&self, age: Duration, limit: usize) -> Result<usize, StoreError> {
        self.write(Forget { age, limit }).await
    }
}

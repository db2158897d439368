//! How attempts ran, by minute.

use std::time::Duration;

use application::ports::{RecentRuns, RunRecord, StoreError};
use async_trait::async_trait;
use domain::{RunLength, Runs};
use sqlx::SqliteConnection;

use crate::{
    clock::micros,
    error::store_error,
    rows::{moment, pages, parse_queue},
    store::Query,
    writer::{Change, Write},
};

/// A minute, in the clock's microseconds.
const MINUTE: i64 = 60_000_000;
/// How long runs are kept, in minutes.
const KEPT: i64 = 60;

/// Adds runs to those of the current minute.
pub(crate) struct NoteRuns {
    pub(crate) runs: Vec<RunRecord>,
}

#[async_trait]
impl Change for NoteRuns {
    type Answer = ();

    async fn apply(&self, write: &mut Write<'_>) -> Result<(), StoreError> {
        const ADD: &str = "
            INSERT INTO queue_run (minute, queue, length, ended, failed, took)
            SELECT ?2, value ->> 0, value ->> 1, value ->> 2, value ->> 3, value ->> 4 FROM json_each(?1) WHERE true
            ON CONFLICT (minute, queue, length) DO UPDATE SET ended = ended + excluded.ended,
                failed = failed + excluded.failed, took = took + excluded.took";
        const FORGET: &str = "DELETE FROM queue_run WHERE minute < ?1";
        let minute = write.now.div_euclid(MINUTE);
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        let row = |RunRecord { queue, length, runs }: &RunRecord| {
            (queue.to_string(), length.step(), count(runs.ended), count(runs.failed), micros(runs.took))
        };
        for page in pages(self.runs.iter().map(row)) {
            let add = sqlx::query(ADD).bind(page).bind(minute);
            add.execute(&mut *write.conn).await.map_err(store_error)?;
        }
        let forget = sqlx::query(FORGET).bind(minute - KEPT);
        forget.execute(&mut *write.conn).await.map_err(store_error)?;
        Ok(())
    }
}

/// What ran lately.
pub(crate) struct ReadRuns {
    pub(crate) minutes: u32,
    pub(crate) now: i64,
}

#[async_trait]
impl Query for ReadRuns {
    type Answer = RecentRuns;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<RecentRuns, StoreError> {
        const SQL: &str = "
            SELECT queue, length, sum(ended), sum(failed), sum(took) FROM queue_run
            WHERE minute >= ?1 GROUP BY queue, length ORDER BY queue, length";
        let first = self.now.div_euclid(MINUTE) - i64::from(self.minutes.max(1)) + 1;
        let rows: Vec<(String, i64, i64, i64, i64)> =
            sqlx::query_as(SQL).bind(first).fetch_all(snapshot).await.map_err(store_error)?;
        let mut records = Vec::with_capacity(rows.len());
        for (queue, length, ended, failed, took) in rows {
            let runs = Runs {
                ended: ended.unsigned_abs(),
                failed: failed.unsigned_abs(),
                took: Duration::from_micros(took.unsigned_abs()),
            };
            let length = RunLength::from_step(u8::try_from(length).unwrap_or(u8::MAX));
            records.push(RunRecord { queue: parse_queue(&queue)?, length, runs });
        }
        Ok(RecentRuns { since: moment(first * MINUTE)?, until: moment(self.now)?, records })
    }
}

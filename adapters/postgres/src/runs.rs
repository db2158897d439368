//! How attempts ran, by minute.

use std::{collections::BTreeMap, time::Duration};

use application::ports::{RecentRuns, RunRecord, StoreError};
use domain::{QueueName, RunLength, Runs};
use sqlx::PgConnection;

use crate::{
    PostgresStore,
    clock::Clock,
    connections::Operation,
    error::Fault,
    rows::{self, field, micros},
};

/// How long runs are kept.
const KEPT: &str = "1 hour";

struct NoteRuns {
    /// Each queue and length once, in their order: the order of locks.
    sums: BTreeMap<(QueueName, RunLength), Runs>,
    clock: Clock,
}

impl Operation for NoteRuns {
    type Output = ();

    async fn run(&self, connection: &mut PgConnection) -> Result<(), Fault> {
        let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        sqlx::query(
            "INSERT INTO queue_run AS r (minute, queue, length, ended, failed, took)
             SELECT date_trunc('minute', coalesce($1, now()), 'UTC'), queue, length, ended, failed, took
             FROM unnest($2::text[], $3::smallint[], $4::bigint[], $5::bigint[], $6::bigint[]) WITH ORDINALITY
                AS sum (queue, length, ended, failed, took, place) ORDER BY place
             ON CONFLICT (minute, queue, length) DO UPDATE SET ended = r.ended + excluded.ended,
                failed = r.failed + excluded.failed, took = r.took + excluded.took",
        )
        .bind(self.clock.bind())
        .bind(self.sums.keys().map(|(queue, _)| queue.as_str()).collect::<Vec<_>>())
        .bind(self.sums.keys().map(|(_, length)| i16::from(length.step())).collect::<Vec<_>>())
        .bind(self.sums.values().map(|runs| count(runs.ended)).collect::<Vec<_>>())
        .bind(self.sums.values().map(|runs| count(runs.failed)).collect::<Vec<_>>())
        .bind(self.sums.values().map(|runs| micros(runs.took)).collect::<Vec<_>>())
        .execute(&mut *connection)
        .await?;
        // What somebody else is just removing is left to that one.
        sqlx::query(
            "WITH old AS MATERIALIZED (
                SELECT minute, queue, length FROM queue_run WHERE minute < coalesce($1, now()) - $2::interval
                FOR UPDATE SKIP LOCKED
             )
             DELETE FROM queue_run USING old
             WHERE (queue_run.minute, queue_run.queue, queue_run.length) = (old.minute, old.queue, old.length)",
        )
        .bind(self.clock.bind())
        .bind(KEPT)
        .execute(connection)
        .await?;
        Ok(())
    }
}

struct ReadRuns {
    minutes: u32,
    clock: Clock,
}

impl Operation for ReadRuns {
    type Output = RecentRuns;

    async fn run(&self, connection: &mut PgConnection) -> Result<RecentRuns, Fault> {
        let rows = sqlx::query(
            "WITH span AS (
                SELECT coalesce($1, now()) AS until,
                    date_trunc('minute', coalesce($1, now()), 'UTC') - ($2 - 1) * interval '1 minute' AS since
             )
             SELECT span.since, span.until, r.queue, r.length, r.ended, r.failed, r.took
             FROM span LEFT JOIN LATERAL (
                SELECT queue, length, sum(ended)::bigint AS ended, sum(failed)::bigint AS failed, sum(took)::bigint AS took
                FROM queue_run WHERE minute >= span.since GROUP BY queue, length
             ) r ON true ORDER BY r.queue, r.length",
        )
        .bind(self.clock.bind())
        .bind(i32::try_from(self.minutes.max(1)).unwrap_or(i32::MAX))
        .fetch_all(connection)
        .await?;
        let span = rows.first().ok_or_else(|| Fault::Unreadable("time has no span".into()))?;
        let mut recent =
            RecentRuns { since: field(span, "since")?, until: field(span, "until")?, records: Vec::new() };
        for row in &rows {
            if field::<Option<&str>>(row, "queue")?.is_none() {
                continue;
            }
            let count = |column| Ok::<_, Fault>(field::<i64>(row, column)?.unsigned_abs());
            recent.records.push(RunRecord {
                queue: rows::name(row, "queue")?,
                length: RunLength::from_step(u8::try_from(field::<i16>(row, "length")?).unwrap_or(u8::MAX)),
                runs: Runs {
                    ended: count("ended")?,
                    failed: count("failed")?,
                    took: Duration::from_micros(count("took")?),
                },
            });
        }
        Ok(recent)
    }
}

impl PostgresStore {
    pub(crate) async fn add_runs(&self, runs: &[RunRecord]) -> Result<(), StoreError> {
        if runs.is_empty() {
            return Ok(());
        }
        let mut sums: BTreeMap<_, Runs> = BTreeMap::new();
        for record in runs {
            let sum = sums.entry((record.queue.clone(), record.length)).or_default();
            *sum = sum.and(record.runs);
        }
        self.connections.run(NoteRuns { sums, clock: self.clock.clone() }).await
    }

    pub(crate) async fn runs_of(&self, minutes: u32) -> Result<RecentRuns, StoreError> {
        self.connections.run(ReadRuns { minutes, clock: self.clock.clone() }).await
    }
}

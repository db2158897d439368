//! Progress and live output of running attempts.

use std::collections::BTreeMap;

use application::ports::{ChunkRecord, ProgressRecord, StoreError};
use domain::{TaskId, WorkerId};
use sqlx::PgConnection;

use crate::{PostgresStore, clock::Clock, connections::Operation, error::Fault, rows::integer};

struct Record {
    worker: WorkerId,
    /// The last one of each attempt, in the order of ids. One attempt of a task can be held, so none is written twice.
    progress: BTreeMap<(TaskId, u32), ProgressRecord>,
    chunks: Vec<ChunkRecord>,
    clock: Clock,
}

impl Operation for Record {
    type Output = ();

    async fn run(&self, connection: &mut PgConnection) -> Result<(), Fault> {
        if !self.progress.is_empty() {
            self.keep_progress(connection).await?;
        }
        if !self.chunks.is_empty() {
            self.keep_chunks(connection).await?;
        }
        Ok(())
    }
}

impl Record {
    async fn keep_progress(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let records = || self.progress.values();
        sqlx::query(
            "INSERT INTO progress (task, attempt, current, total, message, updated_at)
             SELECT r.task, r.attempt, r.current, r.total, r.message, coalesce($2, now())
             FROM unnest($3::bigint[], $4::integer[], $5::bigint[], $6::bigint[], $7::text[])
                AS r (task, attempt, current, total, message)
             CROSS JOIN LATERAL (
                SELECT FROM live WHERE live.id = r.task AND live.attempt = r.attempt AND live.worker = $1 LIMIT 1
             ) held
             ON CONFLICT (task) DO UPDATE SET attempt = excluded.attempt, current = excluded.current,
                total = excluded.total, message = excluded.message, updated_at = excluded.updated_at
             WHERE progress.attempt <= excluded.attempt",
        )
        .bind(self.worker.0)
        .bind(self.clock.bind())
        .bind(records().map(|record| record.task.0).collect::<Vec<_>>())
        .bind(records().map(|record| integer(record.attempt)).collect::<Vec<_>>())
        .bind(records().map(|record| record.progress.current.cast_signed()).collect::<Vec<_>>())
        .bind(records().map(|record| record.progress.total.cast_signed()).collect::<Vec<_>>())
        .bind(records().map(|record| record.progress.message.as_deref().map(without_nul)).collect::<Vec<_>>())
        .execute(connection)
        .await?;
        Ok(())
    }

    async fn keep_chunks(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let chunks = || self.chunks.iter();
        sqlx::query(
            "INSERT INTO chunk (task, attempt, seq, text)
             SELECT r.task, r.attempt, r.seq, r.text
             FROM unnest($2::bigint[], $3::integer[], $4::bigint[], $5::text[]) AS r (task, attempt, seq, text)
             CROSS JOIN LATERAL (
                SELECT FROM live WHERE live.id = r.task AND live.attempt = r.attempt AND live.worker = $1 LIMIT 1
             ) held
             ON CONFLICT DO NOTHING",
        )
        .bind(self.worker.0)
        .bind(chunks().map(|chunk| chunk.task.0).collect::<Vec<_>>())
        .bind(chunks().map(|chunk| integer(chunk.attempt)).collect::<Vec<_>>())
        .bind(chunks().map(|chunk| i64::try_from(chunk.seq).unwrap_or(i64::MAX)).collect::<Vec<_>>())
        .bind(chunks().map(|chunk| without_nul(&chunk.text)).collect::<Vec<_>>())
        .execute(connection)
        .await?;
        Ok(())
    }
}

/// Text as PostgreSQL can keep it: a stream is not stopped for a character that means nothing in text.
fn without_nul(text: &str) -> String {
    text.replace('\0', "")
}

impl PostgresStore {
    pub(crate) async fn record_output(
        &self,
        worker: WorkerId,
        progress: &[ProgressRecord],
        chunks: &[ChunkRecord],
    ) -> Result<(), StoreError> {
        if progress.is_empty() && chunks.is_empty() {
            return Ok(());
        }
        let mut chunks = chunks.to_vec();
        chunks.sort_by_key(|chunk| (chunk.task, chunk.attempt, chunk.seq));
        let progress =
            progress.iter().map(|record| ((record.task, record.attempt), record.clone())).collect();
        let operation = Record { worker, progress, chunks, clock: self.clock.clone() };
        self.connections.run(operation).await
    }
}

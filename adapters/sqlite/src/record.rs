//! Keeping progress and live output.

use std::collections::BTreeMap;

use application::ports::{ChunkRecord, ProgressRecord, StoreError};
use async_trait::async_trait;
use domain::WorkerId;

use crate::{
    error::store_error,
    rows::{bits, pages},
    writer::{Change, Write},
};

/// Keeps what running attempts reported; what is not held is dropped.
pub(crate) struct Record {
    pub(crate) worker: WorkerId,
    pub(crate) progress: Vec<ProgressRecord>,
    pub(crate) chunks: Vec<ChunkRecord>,
}

#[async_trait]
impl Change for Record {
    type Answer = ();

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        const PROGRESS: &str = "
            INSERT INTO progress (task, tenant, attempt, current, total, message, updated_at)
            SELECT l.task, l.tenant, l.attempt, r.value ->> 2, r.value ->> 3, r.value ->> 4, ?3
            FROM json_each(?1) AS r
            CROSS JOIN live AS l ON l.task = r.value ->> 0 AND l.attempt = r.value ->> 1 AND l.worker = ?2
            WHERE true
            ON CONFLICT (task) DO UPDATE SET attempt = excluded.attempt, current = excluded.current,
                total = excluded.total, message = excluded.message, updated_at = excluded.updated_at";
        // A chunk that came before stays as it is: a worker sends again what it has no answer for.
        const CHUNKS: &str = "
            INSERT INTO chunk (task, attempt, seq, tenant, text)
            SELECT l.task, l.attempt, r.value ->> 2, l.tenant, r.value ->> 3
            FROM json_each(?1) AS r
            CROSS JOIN live AS l ON l.task = r.value ->> 0 AND l.attempt = r.value ->> 1 AND l.worker = ?2
            WHERE true
            ON CONFLICT (task, attempt, seq) DO NOTHING";
        // Of several reports on one attempt, the last one counts.
        let last: BTreeMap<_, _> =
            self.progress.iter().map(|record| ((record.task, record.attempt), &record.progress)).collect();
        let progress = last.iter().map(|((task, attempt), progress)| {
            (task.0, attempt, bits(progress.current), bits(progress.total), &progress.message)
        });
        for page in pages(progress) {
            let query = sqlx::query(PROGRESS).bind(page).bind(self.worker.0).bind(write.now);
            query.execute(&mut *write.conn).await.map_err(store_error)?;
        }
        let chunks =
            self.chunks.iter().map(|chunk| (chunk.task.0, chunk.attempt, bits(chunk.seq), &chunk.text));
        for page in pages(chunks) {
            let query = sqlx::query(CHUNKS).bind(page).bind(self.worker.0);
            query.execute(&mut *write.conn).await.map_err(store_error)?;
        }
        Ok(())
    }
}

//! Removing ended tasks that have been kept for long enough: a walk through the tasks by id, each once, and notes of what
//! it has to look at again. As in PostgreSQL, without an index on the history.

use std::time::Duration;

use application::ports::{Removal, StoreError, Walk};
use async_trait::async_trait;
use domain::{
    RetentionRules, State, TaskId, TaskType,
    retention::{Record, Verdict},
};

use crate::{
    clock::micros,
    delete::remove,
    error::store_error,
    rows::{duration, id_list, moment, pages, parse_name, parse_status, state},
    writer::{Change, Write},
};

/// The walk stays so far behind the newest tasks, as in PostgreSQL.
const BEHIND: Duration = Duration::from_secs(300);

/// A step.
pub(crate) struct RemoveOld {
    pub(crate) rules: RetentionRules,
    pub(crate) walk: Walk,
    pub(crate) limit: usize,
}

#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    tenant: String,
    queue: String,
    task_type: String,
    keep_for: Option<i64>,
    status: Option<String>,
    ended_at: Option<i64>,
    needed: bool,
}

#[async_trait]
impl Change for RemoveOld {
    type Answer = Removal;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        match self.walk {
            Walk::Due => self.due(write).await,
            Walk::After(id) => {
                let (ids, more) = self.walk_on(write, id.0).await?;
                let reached = ids.last().copied().filter(|_| more).map(TaskId);
                Ok(Removal { removed: self.look_at(write, ids).await?, reached, more })
            }
        }
    }
}

impl RemoveOld {
    async fn due(&self, write: &mut Write<'_>) -> Result<Removal, StoreError> {
        const MARK: &str = "SELECT walked_to FROM retention_walk WHERE rules = ?1";
        const LOOKS: &str =
            "SELECT task FROM retention_look WHERE look_at <= ?1 ORDER BY look_at, task LIMIT ?2";
        const MOVE: &str =
            "UPDATE retention_walk SET walked_to = ?1, rules = ?2 WHERE walked_to <> ?1 OR rules <> ?2";
        let rules = self.rules.to_string();
        let mark: Option<i64> = sqlx::query_scalar(MARK)
            .bind(&rules)
            .fetch_optional(&mut *write.conn)
            .await
            .map_err(store_error)?;
        let walked_to = mark.unwrap_or(0);
        let mut ids: Vec<i64> = sqlx::query_scalar(LOOKS)
            .bind(write.now)
            .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *write.conn)
            .await
            .map_err(store_error)?;
        let many_looks = ids.len() == self.limit;
        let (walked, many_walked) = self.walk_on(write, walked_to).await?;
        let reached = walked.last().copied().unwrap_or(walked_to);
        ids.extend(walked);
        let removed = self.look_at(write, ids).await?;
        let moved = sqlx::query(MOVE).bind(reached).bind(rules);
        moved.execute(&mut *write.conn).await.map_err(store_error)?;
        Ok(Removal { removed, reached: None, more: many_looks || many_walked })
    }

    /// The tasks after this one that can be due, and whether there may be more of them.
    async fn walk_on(&self, write: &mut Write<'_>, after: i64) -> Result<(Vec<i64>, bool), StoreError> {
        const NEXT: &str = "SELECT id, created_at FROM task WHERE id > ?1 ORDER BY id LIMIT ?2";
        let until = write.now.saturating_sub(micros(self.rules.shortest().max(BEHIND)));
        let rows: Vec<(i64, i64)> = sqlx::query_as(NEXT)
            .bind(after)
            .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *write.conn)
            .await
            .map_err(store_error)?;
        let old = rows.into_iter().take_while(|(_, created_at)| *created_at <= until);
        let ids: Vec<i64> = old.map(|(id, _)| id).collect();
        let more = ids.len() == self.limit;
        Ok((ids, more))
    }

    /// Judges these tasks; answers how many are gone, by how they had ended.
    async fn look_at(
        &self,
        write: &mut Write<'_>,
        ids: Vec<i64>,
    ) -> Result<Vec<(domain::End, usize)>, StoreError> {
        const RECORDS: &str = "
            SELECT t.id, t.tenant, t.queue, t.type AS task_type, t.keep_for, o.status, o.ended_at,
                EXISTS (SELECT 1 FROM dependency AS d WHERE d.needs = o.task)
                OR EXISTS (SELECT 1 FROM outcome AS b WHERE b.task = t.batch AND b.status = 'FAILED') AS needed
            FROM json_each(?1) AS asked CROSS JOIN task AS t ON t.id = asked.value
            LEFT JOIN outcome AS o ON o.task = t.id";
        const DONE: &str = "DELETE FROM retention_look WHERE task IN (SELECT value FROM json_each(?1))";
        const AGAIN: &str = "
            INSERT INTO retention_look (task, look_at)
            SELECT value ->> 0, value ->> 1 FROM json_each(?1) WHERE true
            ON CONFLICT (task) DO UPDATE SET look_at = excluded.look_at";
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let rows: Vec<Row> = sqlx::query_as(RECORDS)
            .bind(id_list(ids))
            .fetch_all(&mut *write.conn)
            .await
            .map_err(store_error)?;
        let now = moment(write.now)?;
        let (mut due, mut ends, mut again, mut done) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for row in rows {
            let task_type: TaskType = parse_name(&row.task_type)?;
            let status = row.status.as_deref().map(parse_status).transpose()?;
            let ended = match (status.map(|status| state(status, false)), row.ended_at) {
                (Some(State::Ended(end)), Some(at)) => Some((end, moment(at)?)),
                _ => None,
            };
            let own = row.keep_for.map(duration).transpose()?;
            match self.rules.judge(Record { task_type: &task_type, own, ended, needed: row.needed }, now) {
                Verdict::Remove => {
                    if let (Some(status), Some((end, _))) = (status, ended) {
                        write.tally.leave(&row.tenant, &row.queue, status);
                        ends.push(end);
                        due.push(row.id);
                    }
                }
                Verdict::LookAgain(at) => again.push((row.id, at.timestamp_micros())),
                Verdict::Leave => done.push(row.id),
            }
        }
        remove(write, due).await?;
        sqlx::query(DONE).bind(id_list(done)).execute(&mut *write.conn).await.map_err(store_error)?;
        for page in pages(again) {
            sqlx::query(AGAIN).bind(page).execute(&mut *write.conn).await.map_err(store_error)?;
        }
        Ok(Removal::by_end(ends))
    }
}

//! Removing ended tasks that have been kept for long enough.
//!
//! No index on the history says which these are: it would be one more entry for each task that ends. Instead a walk goes
//! through `task` by its key, up to where the first can be due, once; what is not due yet when the walk passes is noted in
//! `retention_look`, and so is what the walk would see too early or too late: tasks with a retention of their own, and those
//! that are run again. One process at a time takes a step; the others pass by.

use std::{collections::HashMap, time::Duration};

use application::ports::{Removal, StoreError, Walk};
use domain::{
    End, RetentionRules, Status, TaskId, Timestamp,
    retention::{Record, Verdict},
};
use sqlx::{Connection, PgConnection};

use crate::{
    PostgresStore,
    clock::Clock,
    connections::Operation,
    delete::{Doomed, remove},
    error::Fault,
    rows::{self, field, in_lock_order, limit, moment},
};

/// The walk stays so far behind the newest tasks: ids are drawn before the row that bears them is seen. Far longer than a
/// submission may take.
const BEHIND: Duration = Duration::from_secs(300);
/// Processes with other rules have the walk to themselves until they have been silent for this long.
const SILENCE: &str = "5 minutes";
/// When a task is looked at again that changed while it was being judged.
const SOON: Duration = Duration::from_secs(3600);

/// Whose turn it is, and from where on.
const TAKE_TURN: &str = "
SELECT walked_to, rules FROM retention_walk
WHERE rules = $1 OR walked_at < $2 - $3::text::interval FOR UPDATE SKIP LOCKED";

pub(crate) const LOOKS_DUE: &str = "
SELECT task FROM retention_look WHERE look_at <= $1 ORDER BY look_at LIMIT $2";

pub(crate) const NEXT_TASKS: &str = "SELECT id, created_at FROM task WHERE id > $1 ORDER BY id LIMIT $2";

/// Who waits for others keeps its ties to them until it stops waiting, a batch those to its items too.
pub(crate) const RECORDS: &str = "
SELECT t.id, t.task_type, t.keep_for, o.status, o.ended_at,
    (SELECT true FROM dependency WHERE dependency.needs = o.task LIMIT 1) IS NOT NULL
    OR (SELECT true FROM outcome batch WHERE batch.task = t.batch AND batch.status = 'FAILED' LIMIT 1) IS NOT NULL AS needed
FROM unnest($1::bigint[]) AS asked (id)
CROSS JOIN LATERAL (SELECT id, task_type, keep_for, batch FROM task WHERE task.id = asked.id LIMIT 1) t
LEFT JOIN LATERAL (SELECT task, status, ended_at FROM outcome WHERE outcome.task = asked.id LIMIT 1) o ON true";

struct RemoveOld {
    rules: RetentionRules,
    walk: Walk,
    limit: usize,
    clock: Clock,
}

impl Operation for RemoveOld {
    type Output = Removal;

    async fn run(&self, connection: &mut PgConnection) -> Result<Removal, Fault> {
        let mut transaction = connection.begin().await?;
        let now: Timestamp = sqlx::query_scalar("SELECT coalesce($1, now())")
            .bind(self.clock.bind())
            .fetch_one(&mut *transaction)
            .await?;
        let removal = match self.walk {
            Walk::Due => self.due(&mut transaction, now).await?,
            Walk::After(id) => {
                let (ids, more) = self.walk_on(&mut transaction, id.0, now).await?;
                let reached = ids.last().copied().filter(|_| more).map(TaskId);
                Removal { removed: self.look_at(&mut transaction, ids, now).await?, reached, more }
            }
        };
        transaction.commit().await?;
        Ok(removal)
    }
}

impl RemoveOld {
    async fn due(&self, connection: &mut PgConnection, now: Timestamp) -> Result<Removal, Fault> {
        let rules = self.rules.to_string();
        let turn = sqlx::query(TAKE_TURN).bind(&rules).bind(now).bind(SILENCE);
        let Some(mark) = turn.fetch_optional(&mut *connection).await? else { return Ok(Removal::default()) };
        let walked_to: i64 =
            if field::<&str>(&mark, "rules")? == rules { field(&mark, "walked_to")? } else { 0 };

        let mut ids: Vec<i64> = sqlx::query_scalar(LOOKS_DUE)
            .bind(now)
            .bind(limit(self.limit))
            .fetch_all(&mut *connection)
            .await?;
        let many_looks = ids.len() == self.limit;
        let (walked, many_walked) = self.walk_on(connection, walked_to, now).await?;
        let reached = walked.last().copied().unwrap_or(walked_to);
        ids.extend(walked);
        let removed = self.look_at(connection, ids, now).await?;
        sqlx::query("UPDATE retention_walk SET walked_to = $1, walked_at = $2, rules = $3")
            .bind(reached)
            .bind(now)
            .bind(rules)
            .execute(connection)
            .await?;
        Ok(Removal { removed, reached: None, more: many_looks || many_walked })
    }

    /// The tasks after this one that can be due, and whether there may be more of them.
    async fn walk_on(
        &self,
        connection: &mut PgConnection,
        after: i64,
        now: Timestamp,
    ) -> Result<(Vec<i64>, bool), Fault> {
        let shortest = chrono::TimeDelta::from_std(self.rules.shortest().max(BEHIND)).ok();
        let Some(until) = shortest.and_then(|shortest| now.checked_sub_signed(shortest)) else {
            return Ok((Vec::new(), false));
        };
        let rows = sqlx::query(NEXT_TASKS).bind(after).bind(limit(self.limit)).fetch_all(connection).await?;
        let mut ids = Vec::with_capacity(rows.len());
        for row in &rows {
            if field::<Timestamp>(row, "created_at")? > until {
                return Ok((ids, false));
            }
            ids.push(field(row, "id")?);
        }
        let more = ids.len() == self.limit;
        Ok((ids, more))
    }

    /// Judges these tasks; answers how many are gone, by how they had ended.
    async fn look_at(
        &self,
        connection: &mut PgConnection,
        ids: Vec<i64>,
        now: Timestamp,
    ) -> Result<Vec<(End, usize)>, Fault> {
        let ids = in_lock_order(ids.into_iter().map(TaskId));
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let rows = sqlx::query(RECORDS).bind(&ids).fetch_all(&mut *connection).await?;
        let mut due: HashMap<i64, (End, Timestamp)> = HashMap::new();
        let mut again: HashMap<i64, Timestamp> = HashMap::new();
        for row in &rows {
            let id: i64 = field(row, "id")?;
            let task_type = rows::name(row, "task_type")?;
            let keep_for: Option<i64> = field(row, "keep_for")?;
            let ended = match field::<Option<Timestamp>>(row, "ended_at")? {
                Some(at) => end_of(rows::status(row, "status")?).map(|end| (end, at)),
                None => None,
            };
            let own = keep_for.map(|kept| Duration::from_micros(kept.unsigned_abs()));
            let record = Record { task_type: &task_type, own, ended, needed: field(row, "needed")? };
            match self.rules.judge(record, now) {
                Verdict::Remove => due.extend(ended.map(|ended| (id, ended))),
                Verdict::LookAgain(at) => drop(again.insert(id, at)),
                Verdict::Leave => {}
            }
        }
        let mut gone = Vec::new();
        if !due.is_empty() {
            let doomed = in_lock_order(due.keys().copied().map(TaskId));
            let stood = remove(connection, None, doomed, Doomed::EndedAt(&due)).await?;
            for (id, (end, _)) in &due {
                match stood.get(id) {
                    Some((_, true)) => gone.push(*end),
                    Some((_, false)) => drop(again.insert(*id, now + SOON)),
                    None => {}
                }
            }
        }
        // What is gone, or need not be looked at again, leaves the list.
        let done: Vec<i64> = ids.into_iter().filter(|id| !again.contains_key(id)).collect();
        sqlx::query("DELETE FROM retention_look WHERE task = ANY($1)")
            .bind(done)
            .execute(&mut *connection)
            .await?;
        if !again.is_empty() {
            let mut again: Vec<(i64, Timestamp)> =
                again.into_iter().map(|(id, at)| (id, moment(at))).collect();
            again.sort_unstable();
            let (ids, looks): (Vec<i64>, Vec<Timestamp>) = again.into_iter().unzip();
            sqlx::query(
                "INSERT INTO retention_look (task, look_at) SELECT * FROM unnest($1::bigint[], $2::timestamptz[])
                 ON CONFLICT (task) DO UPDATE SET look_at = excluded.look_at",
            )
            .bind(ids)
            .bind(looks)
            .execute(connection)
            .await?;
        }
        Ok(Removal::by_end(gone))
    }
}

fn end_of(status: Status) -> Option<End> {
    match status {
        Status::Completed => Some(End::Completed),
        Status::Failed => Some(End::Failed),
        Status::Cancelled => Some(End::Cancelled),
        Status::Expired => Some(End::Expired),
        Status::Scheduled | Status::Pending | Status::Processing => None,
    }
}

impl PostgresStore {
    pub(crate) async fn remove_old_tasks(
        &self,
        rules: &RetentionRules,
        walk: Walk,
        limit: usize,
    ) -> Result<Removal, StoreError> {
        self.tallied();
        self.connections.run(RemoveOld { rules: rules.clone(), walk, limit, clock: self.clock.clone() }).await
    }
}

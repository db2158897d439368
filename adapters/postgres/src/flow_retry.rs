//! Flows and retries: what is back may have to wait for others first, and may be waited for again.

use std::collections::{BTreeMap, HashMap};

use application::ports::RetryOutcome;
use domain::{
    Counters, TaskId, TaskType, Timestamp,
    flow::{Needs, is_batch, waits_again},
};
use sqlx::PgConnection;

use crate::{
    error::Fault,
    flow::{NEVER, await_ends, tell},
    rows::in_lock_order,
};

/// The outcomes of a retry whose tasks are back as PENDING.
pub(crate) struct Back<'o> {
    pub(crate) now: Option<Timestamp>,
    pub(crate) outcomes: &'o mut HashMap<TaskId, RetryOutcome>,
}

impl Back<'_> {
    /// Makes those wait that look at their needs again, and those wait again that wait for what is back. `flows` says of
    /// what type those are that belong to a flow, and what they need; `edited`, who got another input.
    pub(crate) async fn wait_again(
        &mut self,
        connection: &mut PgConnection,
        reopened: &HashMap<TaskId, Counters>,
        flows: HashMap<TaskId, (TaskType, Needs)>,
        edited: impl Fn(TaskId) -> bool,
    ) -> Result<(), Fault> {
        let ids = in_lock_order(reopened.keys().copied());
        if ids.is_empty() {
            return Ok(());
        }
        let mut waiting: BTreeMap<TaskId, Vec<i64>> = BTreeMap::new();
        for (id, counters) in reopened {
            let Some((task_type, needs)) = flows.get(id) else { continue };
            if !waits_again(task_type, Some(needs), *counters) {
                continue;
            }
            let needed = if is_batch(task_type) {
                items(connection, *id).await?
            } else {
                in_lock_order(needs.after.iter().map(|need| need.task))
            };
            waiting.insert(*id, needed);
            if needs.resolved && edited(*id) {
                let needs = Needs { resolved: false, ..needs.clone() };
                let edit = sqlx::query("UPDATE task SET needs = $2 WHERE id = $1").bind(id.0);
                edit.bind(needs.to_text()).execute(&mut *connection).await?;
            }
        }
        self.hold_back(connection, waiting).await?;
        // Who still waits for one of these waits for it again.
        sqlx::query(
            "WITH again AS (
                UPDATE dependency SET met = false WHERE needs = ANY($1) AND met RETURNING task
             ), n AS (
                SELECT task, count(*)::integer AS n FROM again GROUP BY task
             )
             UPDATE live SET waits_for = live.waits_for + n.n FROM n
             WHERE live.id = n.task AND live.id = ANY(ARRAY(SELECT task FROM n)) AND live.waits_for IS NOT NULL",
        )
        .bind(&ids)
        .execute(&mut *connection)
        .await?;
        sqlx::query(
            "UPDATE live SET awaited = true WHERE id = ANY($1) AND awaited IS NULL
                AND EXISTS (SELECT FROM dependency d WHERE d.needs = live.id)",
        )
        .bind(&ids)
        .execute(connection)
        .await?;
        Ok(())
    }

    /// Takes tasks out of the waiting for a worker and lets them wait for those of their needs that have not ended.
    async fn hold_back(
        &mut self,
        connection: &mut PgConnection,
        waiting: BTreeMap<TaskId, Vec<i64>>,
    ) -> Result<(), Fault> {
        if waiting.is_empty() {
            return Ok(());
        }
        let needed = in_lock_order(waiting.values().flatten().copied().map(TaskId));
        let open = await_ends(connection, &needed).await?;
        let ids: Vec<i64> = waiting.keys().map(|id| id.0).collect();
        // Those that have ended are noted too, should they be run again.
        let (mut counts, mut needs, mut tasks, mut met) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (id, needed) in &waiting {
            let mut unmet = 0;
            for need in needed {
                needs.push(*need);
                tasks.push(id.0);
                met.push(!open.contains(need));
                unmet += i32::from(open.contains(need));
            }
            counts.push(unmet);
            if let Some(outcome) = self.outcomes.get_mut(id)
                && let RetryOutcome::Waiting(_, attempt) = outcome
            {
                *outcome = RetryOutcome::WaitingForOthers(*attempt);
            }
        }
        sqlx::query(
            "WITH tied AS (
                INSERT INTO dependency (needs, task, met) SELECT * FROM unnest($4::bigint[], $5::bigint[], $6::boolean[])
                ON CONFLICT (needs, task) DO UPDATE SET met = excluded.met
             ), held AS (
                UPDATE live SET ready = false, due_at = $3,
                    waits_for = ($2::integer[])[width_bucket(id, $1::bigint[])]
                WHERE id = ANY($1) RETURNING tenant, queue
             )
             INSERT INTO tally_delta (tenant, queue, pending, scheduled)
             SELECT tenant, queue, -count(*), count(*) FROM held GROUP BY tenant, queue",
        )
        .bind(&ids)
        .bind(&counts)
        .bind(*NEVER)
        .bind(needs)
        .bind(tasks)
        .bind(met)
        .execute(&mut *connection)
        .await?;
        sqlx::query(
            "UPDATE progress SET updated_at = coalesce($3, now()),
                current = greatest(total - ($2::integer[])[width_bucket(task, $1::bigint[])], 0)
             WHERE task = ANY($1)",
        )
        .bind(&ids)
        .bind(&counts)
        .bind(self.now)
        .execute(&mut *connection)
        .await?;
        // Looked at once more, as they may have nothing to wait for.
        tell(connection, &ids).await?;
        Ok(())
    }
}

/// The items of a batch.
async fn items(connection: &mut PgConnection, batch: TaskId) -> Result<Vec<i64>, sqlx::Error> {
    sqlx::query_scalar("SELECT id FROM task WHERE batch = $1 ORDER BY id")
        .bind(batch.0)
        .fetch_all(connection)
        .await
}

//! Submitting tasks.

use application::ports::{Receipt, StoreError, Submitted};
use async_trait::async_trait;
use domain::{NewTask, Rank, RetryTerms, Start, Status, TaskId};
use serde::Serialize;

use crate::{
    clock::{later, micros},
    error::store_error,
    fair::line_up,
    once::Known,
    rows::{moment, moment_if, pages},
    writer::{Change, Write},
};

/// Stores tasks, all or none.
pub(crate) struct Submit {
    pub(crate) tasks: Vec<NewTask>,
}

/// A submission on its way into the table.
#[derive(Serialize)]
struct Row<'t> {
    id: i64,
    tenant: &'t str,
    #[serde(rename = "type")]
    task_type: &'t str,
    queue: &'t str,
    priority: u8,
    input: &'t str,
    metadata: Option<&'t str>,
    unique_key: Option<&'t str>,
    max_attempts: u32,
    soft_time_limit: Option<i64>,
    time_limit: i64,
    retry: Option<String>,
    keep_for: Option<i64>,
    run_at: Option<i64>,
    expires_at: Option<i64>,
    fairness_key: Option<&'t str>,
    cost: Option<u32>,
}

impl<'t> Row<'t> {
    fn new(id: i64, task: &'t NewTask, now: i64) -> Self {
        let start = match task.start {
            Start::Now => now,
            Start::At(at) => at.timestamp_micros(),
            Start::After(wait) => later(now, wait),
        };
        Self {
            id,
            tenant: task.tenant.as_str(),
            task_type: task.task_type.as_str(),
            queue: task.queue.as_str(),
            priority: task.priority.get(),
            input: task.input.as_str(),
            metadata: task.metadata.as_ref().map(|metadata| metadata.as_str()),
            unique_key: task.unique.as_ref().map(|unique| unique.key.as_str()),
            max_attempts: task.limits.max_attempts,
            soft_time_limit: task.limits.soft_time_limit.map(micros),
            time_limit: micros(task.limits.time_limit),
            retry: task.own.retry.as_ref().map(|policy| RetryTerms::from(policy).to_text()),
            keep_for: task.own.keep_for.map(micros),
            run_at: (start > now).then_some(start),
            expires_at: task.expires_at.map(|at| at.timestamp_micros()),
            fairness_key: task.share.as_ref().and_then(|share| share.key.as_ref()).map(|key| key.as_str()),
            cost: task.share.as_ref().map(|share| share.cost.get()),
        }
    }
}

#[async_trait]
impl Change for Submit {
    type Answer = Vec<Submitted>;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        store(write, self.tasks.iter()).await
    }
}

/// Stores tasks in the transaction that is under way.
pub(crate) async fn store<'t>(
    write: &mut Write<'_>,
    tasks: impl Iterator<Item = &'t NewTask>,
) -> Result<Vec<Submitted>, StoreError> {
    const TASKS: &str = "
        INSERT INTO task (id, tenant, type, queue, priority, input, metadata, unique_key,
                          max_attempts, soft_time_limit, time_limit, retry, keep_for, run_at, expires_at,
                          fairness_key, cost, created_at)
        SELECT value ->> 'id', value ->> 'tenant', value ->> 'type', value ->> 'queue', value ->> 'priority',
               value ->> 'input', value ->> 'metadata', value ->> 'unique_key', value ->> 'max_attempts',
               value ->> 'soft_time_limit', value ->> 'time_limit', value ->> 'retry', value ->> 'keep_for',
               value ->> 'run_at', value ->> 'expires_at', value ->> 'fairness_key', value ->> 'cost', ?2
        FROM json_each(?1)";
    const LIVE: &str = "
        INSERT INTO live (task, tenant, queue, priority, rank, state, due_at, expires_at)
        SELECT id, tenant, queue, priority, iif(cost IS NULL, NULL, -1), iif(run_at IS NULL, 'PENDING', 'SCHEDULED'),
               run_at, expires_at
        FROM task WHERE id BETWEEN ?1 AND ?2";
    const KEPT_FOR: &str = "
        INSERT INTO retention_look (task, look_at)
        SELECT id, created_at + keep_for FROM task WHERE id BETWEEN ?1 AND ?2 AND keep_for IS NOT NULL";
    let created_at = moment(write.now)?;
    let (mut outcomes, mut rows) = (Vec::new(), Vec::new());
    let mut known = Known::default();
    // Only this writer gives ids; one that was lost in a failed change is not given again.
    let first = write.memory.last_task + 1;
    for task in tasks {
        if let Some(before) = known.find(write, task).await? {
            outcomes.push(before);
            continue;
        }
        write.memory.last_task += 1;
        let row = Row::new(write.memory.last_task, task, write.now);
        let status = if row.run_at.is_some() { Status::Scheduled } else { Status::Pending };
        write.tally.enter(row.tenant, row.queue, status);
        let (id, rank) = (TaskId(row.id), Rank(row.id));
        let receipt = Receipt { id, created_at, run_at: moment_if(row.run_at)?, rank };
        known.note(task, receipt, status);
        outcomes.push(Submitted::New(receipt));
        rows.push(row);
    }
    let keeps = rows.iter().any(|row| row.keep_for.is_some());
    let begin = |row: &&Row<'_>| row.cost.is_some() && row.run_at.is_none();
    let fair: Vec<i64> = rows.iter().filter(begin).map(|row| row.id).collect();
    for page in pages(rows) {
        let insert = sqlx::query(TASKS).bind(page).bind(write.now);
        insert.execute(&mut *write.conn).await.map_err(store_error)?;
    }
    let last = write.memory.last_task;
    sqlx::query(LIVE).bind(first).bind(last).execute(&mut *write.conn).await.map_err(store_error)?;
    if keeps {
        sqlx::query(KEPT_FOR).bind(first).bind(last).execute(&mut *write.conn).await.map_err(store_error)?;
    }
    known.remember(write).await?;
    let ranks = line_up(write, fair).await?;
    for outcome in &mut outcomes {
        if let Submitted::New(receipt) = outcome {
            receipt.rank = ranks.get(&receipt.id.0).copied().unwrap_or(receipt.rank);
        }
    }
    Ok(outcomes)
}

//! Flows: tasks that wait for others. What comes of an end is in [`crate::follow`].

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use application::ports::{
    BatchItems, FlowStored, NewNode, Receipt, StoreError, Submitted, links, open_needs,
};
use async_trait::async_trait;
use domain::{
    Counters, NewTask, Start, Status, TaskId, TaskType, Tenant, Timestamp,
    flow::{BatchCounts, Needs, is_batch, waits_again},
};
use sqlx::SqliteConnection;

use crate::{
    error::store_error,
    once::Known,
    rows::{id_list, pages, parse_name, parse_status},
    store::Query,
    submit::store,
    writer::{Change, Write},
};

/// The `due_at` of a task that waits for others: never.
pub(crate) const NEVER: i64 = 253_402_214_400_000_000;

/// Stores a flow.
pub(crate) struct SubmitFlow {
    pub(crate) nodes: Vec<NewNode>,
    /// Items of the batch that is the first node, which are stored piece by piece after the nodes.
    pub(crate) items: Option<Arc<dyn BatchItems>>,
}

#[async_trait]
impl Change for SubmitFlow {
    type Answer = FlowStored;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        let Some(head) = self.nodes.first() else { return Ok(FlowStored::New(Vec::new())) };
        if let Some(known) = Known::default().find(write, &head.task).await? {
            return Ok(FlowStored::Not(known));
        }
        let never = Timestamp::from_timestamp_micros(NEVER).unwrap_or(Timestamp::MAX_UTC);
        let waits = |(place, node): (usize, &NewNode)| {
            node.waits(place, &self.nodes) || (place == 0 && self.items.is_some())
        };
        let waits: Vec<bool> = self.nodes.iter().enumerate().map(waits).collect();
        let tasks: Vec<NewTask> = self
            .nodes
            .iter()
            .zip(&waits)
            .map(|(node, waits)| {
                let start = if *waits { Start::At(never) } else { node.task.start };
                NewTask { start, ..node.task.clone() }
            })
            .collect();
        let mut receipts = store_new(write, &tasks).await?;
        for piece in self.items.iter().flat_map(|items| items.pieces()) {
            receipts.extend(store_new(write, &piece?).await?);
        }
        self.link(write, &receipts).await?;
        for (receipt, _) in receipts.iter_mut().zip(waits).filter(|(_, waits)| *waits) {
            receipt.run_at = None;
        }
        Ok(FlowStored::New(receipts))
    }
}

/// Stores what nothing stands in the way of: only the first node may have keys, and those were looked up.
async fn store_new(write: &mut Write<'_>, tasks: &[NewTask]) -> Result<Vec<Receipt>, StoreError> {
    let receipt = |outcome| match outcome {
        Submitted::New(receipt) => Ok(receipt),
        other => Err(StoreError::Corrupt(format!("a part of a flow came to {other:?}"))),
    };
    store(write, tasks.iter()).await?.into_iter().map(receipt).collect()
}

impl SubmitFlow {
    /// Ties the stored nodes together.
    async fn link(&self, write: &mut Write<'_>, receipts: &[Receipt]) -> Result<(), StoreError> {
        const LINK: &str = "
            UPDATE task SET batch = l.batch, needs = l.needs
            FROM (SELECT value ->> 0 AS id, value ->> 1 AS batch, value ->> 2 AS needs FROM json_each(?1)) AS l
            WHERE task.id = l.id";
        const PROGRESS: &str = "
            INSERT INTO progress (task, tenant, attempt, current, total, updated_at) VALUES (?1, ?2, 0, 0, ?3, ?4)";
        let mut ids: Vec<TaskId> = receipts.iter().map(|receipt| receipt.id).collect();
        let more = ids.split_off(self.nodes.len());
        let mut open = open_needs(&self.nodes, &ids);
        if let Some(batch) = open.first_mut() {
            batch.extend(&more);
        }
        let batch = ids.first().map(|id| id.0);
        let linked = ids.iter().zip(&self.nodes).zip(links(&self.nodes, &ids));
        let linked =
            linked.filter(|((_, node), needs)| node.is_item || needs.is_some()).map(|((id, node), needs)| {
                (id.0, batch.filter(|_| node.is_item), needs.as_ref().map(Needs::to_text))
            });
        for page in pages(linked.chain(more.iter().map(|id| (id.0, batch, None)))) {
            sqlx::query(LINK).bind(page).execute(&mut *write.conn).await.map_err(store_error)?;
        }
        let waiting: BTreeMap<i64, Vec<(i64, bool)>> = ids
            .iter()
            .zip(&open)
            .filter(|(_, open)| !open.is_empty())
            .map(|(id, open)| (id.0, open.iter().map(|need| (need.0, true)).collect()))
            .collect();
        wait_for(write, &waiting).await?;
        let items = self.nodes.iter().filter(|node| node.is_item).count() + more.len();
        if let (Some(batch), true) = (batch, items > 0) {
            let tenant = self.nodes.first().map_or("", |node| node.task.tenant.as_str());
            let progress = sqlx::query(PROGRESS).bind(batch).bind(tenant);
            let progress = progress.bind(i64::try_from(items).unwrap_or(i64::MAX)).bind(write.now);
            progress.execute(&mut *write.conn).await.map_err(store_error)?;
        }
        Ok(())
    }
}

/// Ties tasks that are SCHEDULED for never to those that they need, and says of each whether it is waited for; of these,
/// who has ended is to be followed up.
async fn wait_for(
    write: &mut Write<'_>,
    waiting: &BTreeMap<i64, Vec<(i64, bool)>>,
) -> Result<(), StoreError> {
    const TIE: &str = "
        INSERT INTO dependency (needs, task, met)
        SELECT value ->> 0, value ->> 1, value ->> 2 FROM json_each(?1) WHERE true
        ON CONFLICT (needs, task) DO UPDATE SET met = excluded.met";
    const WAIT: &str = "
        UPDATE live SET waits_for = w.open
        FROM (SELECT value ->> 0 AS task, value ->> 1 AS open FROM json_each(?1)) AS w WHERE live.task = w.task";
    const AWAIT: &str = "UPDATE live SET awaited = 1 WHERE task IN (SELECT value FROM json_each(?1))";
    const OVER: &str = "
        INSERT INTO ended_need (task) SELECT asked.value FROM json_each(?1) AS asked
        WHERE NOT EXISTS (SELECT 1 FROM live WHERE live.task = asked.value)";
    write.memory.has_flows = true;
    let edges = waiting
        .iter()
        .flat_map(|(task, needs)| needs.iter().map(move |(need, open)| (*need, *task, i64::from(!open))));
    for page in pages(edges) {
        sqlx::query(TIE).bind(page).execute(&mut *write.conn).await.map_err(store_error)?;
    }
    for page in
        pages(waiting.iter().map(|(task, needs)| (*task, needs.iter().filter(|(_, open)| *open).count())))
    {
        sqlx::query(WAIT).bind(page).execute(&mut *write.conn).await.map_err(store_error)?;
    }
    let open = waiting.values().flatten().filter(|(_, open)| *open).map(|(need, _)| *need);
    let needed = id_list(open);
    for sql in [AWAIT, OVER] {
        sqlx::query(sql).bind(&needed).execute(&mut *write.conn).await.map_err(store_error)?;
    }
    Ok(())
}

#[derive(sqlx::FromRow)]
struct FlowRow {
    id: i64,
    tenant: String,
    queue: String,
    task_type: String,
    needs: Option<String>,
    attempt: i64,
}

/// After tasks were brought back as PENDING: those that have to look at their needs again wait for them, and whoever still
/// waits for one waits for it again. `edited` got another input. Answers who waits for others.
pub(crate) async fn wait_again(
    write: &mut Write<'_>,
    reopened: &[i64],
    edited: &HashSet<i64>,
) -> Result<HashSet<TaskId>, StoreError> {
    const FLOWS: &str = "
        SELECT t.id, t.tenant, t.queue, t.type AS task_type, t.needs, l.attempt
        FROM json_each(?1) AS asked CROSS JOIN task AS t ON t.id = asked.value CROSS JOIN live AS l ON l.task = t.id
        WHERE t.needs IS NOT NULL OR t.type = 'batch'";
    const HOLD: &str = "
        UPDATE live SET state = 'SCHEDULED', due_at = ?2, waits_for = 0 WHERE task IN (SELECT value FROM json_each(?1))";
    const POKE: &str = "INSERT INTO ended_need (task) SELECT value FROM json_each(?1)";
    const PROGRESS: &str = "
        UPDATE progress SET current = max(total - (SELECT waits_for FROM live WHERE live.task = progress.task), 0),
            updated_at = ?2
        WHERE task IN (SELECT value FROM json_each(?1))";
    const UNMEET: &str = "
        UPDATE dependency SET met = 0 WHERE met = 1 AND needs IN (SELECT value FROM json_each(?1)) RETURNING task";
    const MORE: &str = "
        UPDATE live SET waits_for = waits_for + 1 WHERE task = ?1 AND waits_for IS NOT NULL";
    const AWAIT: &str = "
        UPDATE live SET awaited = 1 WHERE task IN (
            SELECT asked.value FROM json_each(?1) AS asked
            WHERE EXISTS (SELECT 1 FROM dependency AS d WHERE d.needs = asked.value))";
    if reopened.is_empty() || !write.memory.has_flows {
        return Ok(HashSet::new());
    }
    let ids = id_list(reopened.iter().copied());
    let rows: Vec<FlowRow> =
        sqlx::query_as(FLOWS).bind(&ids).fetch_all(&mut *write.conn).await.map_err(store_error)?;
    let mut waiting: BTreeMap<i64, Vec<(i64, bool)>> = BTreeMap::new();
    for row in rows {
        let task_type: TaskType = parse_name(&row.task_type)?;
        let needs = row.needs.as_deref().map(read_needs).transpose()?;
        let counters =
            Counters { attempt: u32::try_from(row.attempt).unwrap_or(u32::MAX), ..Counters::default() };
        if !waits_again(&task_type, needs.as_ref(), counters) {
            continue;
        }
        let needed: Vec<i64> = match &needs {
            _ if is_batch(&task_type) => items(write, row.id).await?,
            Some(needs) => needs.after.iter().map(|need| need.task.0).collect(),
            None => Vec::new(),
        };
        // Those that have ended are noted too, should they be run again.
        let open = unfinished(write, &needed).await?;
        waiting.insert(row.id, needed.into_iter().map(|need| (need, open.contains(&need))).collect());
        write.tally.shift(&row.tenant, &row.queue, Status::Pending, Status::Scheduled);
        if let Some(needs) = needs.filter(|needs| needs.resolved && edited.contains(&row.id)) {
            set_needs(write, row.id, &Needs { resolved: false, ..needs }).await?;
        }
    }
    if !waiting.is_empty() {
        let held = id_list(waiting.keys().copied());
        let hold = sqlx::query(HOLD).bind(&held).bind(NEVER).execute(&mut *write.conn).await;
        hold.map_err(store_error)?;
        wait_for(write, &waiting).await?;
        let progress = sqlx::query(PROGRESS).bind(&held).bind(write.now).execute(&mut *write.conn).await;
        progress.map_err(store_error)?;
        // Looked at once more, as they may have nothing to wait for.
        sqlx::query(POKE).bind(&held).execute(&mut *write.conn).await.map_err(store_error)?;
    }
    let again: Vec<i64> =
        sqlx::query_scalar(UNMEET).bind(&ids).fetch_all(&mut *write.conn).await.map_err(store_error)?;
    for task in again {
        sqlx::query(MORE).bind(task).execute(&mut *write.conn).await.map_err(store_error)?;
    }
    sqlx::query(AWAIT).bind(&ids).execute(&mut *write.conn).await.map_err(store_error)?;
    Ok(waiting.into_keys().map(TaskId).collect())
}

/// What a task needs, as it was kept.
pub(crate) fn read_needs(text: &str) -> Result<Needs, StoreError> {
    Needs::from_text(text).map_err(|error| StoreError::Corrupt(format!("needs: {error}")))
}

pub(crate) async fn set_needs(write: &mut Write<'_>, id: i64, needs: &Needs) -> Result<(), StoreError> {
    const SQL: &str = "UPDATE task SET needs = ?2 WHERE id = ?1";
    let set = sqlx::query(SQL).bind(id).bind(needs.to_text()).execute(&mut *write.conn).await;
    set.map(drop).map_err(store_error)
}

async fn items(write: &mut Write<'_>, batch: i64) -> Result<Vec<i64>, StoreError> {
    const SQL: &str = "SELECT id FROM task WHERE batch = ?1";
    sqlx::query_scalar(SQL).bind(batch).fetch_all(&mut *write.conn).await.map_err(store_error)
}

async fn unfinished(write: &mut Write<'_>, ids: &[i64]) -> Result<HashSet<i64>, StoreError> {
    const SQL: &str =
        "SELECT l.task FROM json_each(?1) AS asked CROSS JOIN live AS l ON l.task = asked.value";
    let found = sqlx::query_scalar(SQL).bind(id_list(ids.iter().copied())).fetch_all(&mut *write.conn).await;
    found.map(|ids: Vec<i64>| ids.into_iter().collect()).map_err(store_error)
}

/// How the items of batches stand.
pub(crate) struct CountItems {
    pub(crate) tenant: Tenant,
    pub(crate) batches: Vec<TaskId>,
}

#[async_trait]
impl Query for CountItems {
    type Answer = Vec<(TaskId, BatchCounts)>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        let mut counted = Vec::with_capacity(self.batches.len());
        for id in self.batches {
            let counts = count_items(snapshot, Some(&self.tenant), id.0).await?;
            if counts.total() > 0 {
                counted.push((id, counts));
            }
        }
        Ok(counted)
    }
}

pub(crate) async fn count_items(
    conn: &mut SqliteConnection,
    tenant: Option<&Tenant>,
    batch: i64,
) -> Result<BatchCounts, StoreError> {
    const SQL: &str = "
        SELECT coalesce(l.state, o.status) AS status, count(*)
        FROM task AS t INDEXED BY task_batch
        LEFT JOIN live AS l ON l.task = t.id LEFT JOIN outcome AS o ON o.task = t.id
        WHERE t.batch = ?1 AND (?2 IS NULL OR t.tenant = ?2) GROUP BY 1";
    let rows: Vec<(String, i64)> = sqlx::query_as(SQL)
        .bind(batch)
        .bind(tenant.map(Tenant::as_str))
        .fetch_all(conn)
        .await
        .map_err(store_error)?;
    let mut counts = BatchCounts::default();
    for (status, count) in rows {
        counts.add(parse_status(&status)?, count.unsigned_abs());
    }
    Ok(counts)
}

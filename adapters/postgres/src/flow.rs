//! Flows: tasks that wait for others, stored in one transaction.
//!
//! Who is needed and lives is marked as awaited, under its row's lock: whoever ends it before that is seen to have ended
//! it, and whoever ends it later sees the mark and tells of the end. What comes of an end is in [`crate::follow`].

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, LazyLock},
};

use application::ports::{BatchItems, FlowStored, Needed, NewNode, Receipt, StoreError, links, open_needs};
use domain::{
    NewTask, Start, Status, TaskId, Tenant, Timestamp,
    flow::{BatchCounts, Needs},
};
use sqlx::{Connection, PgConnection};

use crate::{
    PostgresStore,
    clock::Clock,
    connections::Operation,
    error::Fault,
    once::known,
    rows::{self, field, in_lock_order},
    submit::{Ties, insert_flow},
};

/// The `due_at` of a task that waits for others: never. It can be read by programs that know of no such tasks.
pub(crate) static NEVER: LazyLock<Timestamp> =
    LazyLock::new(|| Timestamp::from_timestamp(253_402_214_400, 0).unwrap_or(Timestamp::MAX_UTC));

struct SubmitFlow {
    nodes: Vec<NewNode>,
    /// Items of the batch that is the first node, which are stored piece by piece after the nodes.
    items: Option<Arc<dyn BatchItems>>,
    clock: Clock,
}

impl Operation for SubmitFlow {
    /// With the flow, whether there is something to follow up.
    type Output = (FlowStored, bool);

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Output, Fault> {
        let mut transaction = connection.begin().await?;
        let clock = self.clock.bind();
        let Some(head) = self.nodes.first() else {
            return Ok((FlowStored::New(Vec::new()), false));
        };
        if let Some(known) = known(&mut transaction, &head.task, clock).await? {
            transaction.commit().await?;
            return Ok((FlowStored::Not(known), false));
        }
        let stored = self.stored_needs();
        let open = await_ends(&mut transaction, &stored).await?;
        let over: Vec<i64> = stored.into_iter().filter(|id| !open.contains(id)).collect();
        let more = self.items.as_ref().map_or(0, |items| items.count());
        let mut ids: Vec<TaskId> =
            sqlx::query_scalar("SELECT nextval('task_id') FROM generate_series(1, $1::bigint)")
                .bind(rows::limit(self.nodes.len() + more))
                .fetch_all(&mut *transaction)
                .await?
                .into_iter()
                .map(TaskId)
                .collect();
        let items = ids.split_off(self.nodes.len());
        let mut open = open_needs(&self.nodes, &ids);
        if let Some(batch) = open.first_mut() {
            batch.extend(&items);
        }
        let mut receipts = self.insert(&mut transaction, &ids, &open, clock).await?;
        receipts.extend(self.insert_items(&mut transaction, ids.first(), &items, clock).await?);
        self.tie(&mut transaction, &ids, &open, clock).await?;
        if !over.is_empty() {
            tell(&mut transaction, &over).await?;
        }
        transaction.commit().await?;
        Ok((FlowStored::New(receipts), !over.is_empty()))
    }
}

impl SubmitFlow {
    fn stored_needs(&self) -> Vec<i64> {
        in_lock_order(self.nodes.iter().flat_map(|node| &node.needs).filter_map(|need| match need.on {
            Needed::Stored(id) => Some(id),
            Needed::Node(_) => None,
        }))
    }

    async fn insert(
        &self,
        connection: &mut PgConnection,
        ids: &[TaskId],
        open: &[Vec<TaskId>],
        clock: Option<Timestamp>,
    ) -> Result<Vec<Receipt>, Fault> {
        let task = |(node, open): (&NewNode, &Vec<TaskId>)| {
            let start = if open.is_empty() { node.task.start } else { Start::At(*NEVER) };
            NewTask { start, ..node.task.clone() }
        };
        let tasks: Vec<NewTask> = self.nodes.iter().zip(open).map(task).collect();
        let needed: HashSet<TaskId> = open.iter().flatten().copied().collect();
        let batch = ids.first().map(|id| id.0);
        let ties: Vec<Ties> = ids
            .iter()
            .zip(&self.nodes)
            .zip(open)
            .zip(links(&self.nodes, ids))
            .map(|(((id, node), open), needs)| Ties {
                number: id.0,
                batch: batch.filter(|_| node.is_item),
                needs: needs.as_ref().map(Needs::to_text),
                waits_for: (!open.is_empty()).then(|| i32::try_from(open.len()).unwrap_or(i32::MAX)),
                awaited: needed.contains(id).then_some(true),
            })
            .collect();
        let mut receipts = insert_flow(connection, &tasks.iter().collect::<Vec<_>>(), &ties, clock).await?;
        for (receipt, _) in receipts.iter_mut().zip(open).filter(|(_, open)| !open.is_empty()) {
            receipt.run_at = None;
        }
        Ok(receipts)
    }

    /// Stores those items that are read piece by piece.
    async fn insert_items(
        &self,
        connection: &mut PgConnection,
        batch: Option<&TaskId>,
        mut ids: &[TaskId],
        clock: Option<Timestamp>,
    ) -> Result<Vec<Receipt>, Fault> {
        let mut receipts = Vec::with_capacity(ids.len());
        for piece in self.items.iter().flat_map(|items| items.pieces()) {
            let piece = piece.map_err(|error| Fault::Unreadable(error.to_string()))?;
            let Some((numbers, rest)) = ids.split_at_checked(piece.len()) else {
                return Err(Fault::Unreadable("there are more items than were counted".into()));
            };
            let tie = |id: &TaskId| Ties {
                number: id.0,
                batch: batch.map(|batch| batch.0),
                needs: None,
                waits_for: None,
                awaited: Some(true),
            };
            let ties: Vec<Ties> = numbers.iter().map(tie).collect();
            let tasks: Vec<&NewTask> = piece.iter().collect();
            receipts.extend(insert_flow(connection, &tasks, &ties, clock).await?);
            ids = rest;
        }
        if !ids.is_empty() {
            return Err(Fault::Unreadable(format!(
                "{} items are missing of those that were counted",
                ids.len()
            )));
        }
        Ok(receipts)
    }

    /// Keeps who waits for whom, and how far a batch has come.
    async fn tie(
        &self,
        connection: &mut PgConnection,
        ids: &[TaskId],
        open: &[Vec<TaskId>],
        clock: Option<Timestamp>,
    ) -> Result<(), Fault> {
        let edges =
            || ids.iter().zip(open).flat_map(|(id, open)| open.iter().map(move |need| (need.0, id.0)));
        sqlx::query("INSERT INTO dependency (needs, task) SELECT * FROM unnest($1::bigint[], $2::bigint[])")
            .bind(edges().map(|(needs, _)| needs).collect::<Vec<_>>())
            .bind(edges().map(|(_, task)| task).collect::<Vec<_>>())
            .execute(&mut *connection)
            .await?;
        let more = self.items.as_ref().map_or(0, |items| items.count());
        let items = self.nodes.iter().filter(|node| node.is_item).count() + more;
        if let (Some(batch), true) = (ids.first(), items > 0) {
            sqlx::query(
                "INSERT INTO progress (task, updated_at, current, total, attempt) VALUES ($1, coalesce($2, now()), 0, $3, 0)",
            )
            .bind(batch.0)
            .bind(clock)
            .bind(rows::limit(items))
            .execute(connection)
            .await?;
        }
        Ok(())
    }
}

/// Marks those of these tasks as awaited that have not ended, and answers which these are. What has ended before this is
/// seen to have ended by the next statement of the transaction.
pub(crate) async fn await_ends(
    connection: &mut PgConnection,
    ids: &[i64],
) -> Result<HashSet<i64>, sqlx::Error> {
    if ids.is_empty() {
        return Ok(HashSet::new());
    }
    let open: Vec<i64> = sqlx::query_scalar(
        "SELECT l.id FROM unnest($1::bigint[]) AS asked (id)
         CROSS JOIN LATERAL (SELECT id FROM live WHERE live.id = asked.id FOR UPDATE) l",
    )
    .bind(ids)
    .fetch_all(&mut *connection)
    .await?;
    sqlx::query("UPDATE live SET awaited = true WHERE id = ANY($1) AND awaited IS NULL")
        .bind(&open)
        .execute(connection)
        .await?;
    Ok(open.into_iter().collect())
}

/// Leaves word that these are to be followed up.
pub(crate) async fn tell(connection: &mut PgConnection, ids: &[i64]) -> Result<(), sqlx::Error> {
    let told = sqlx::query("INSERT INTO ended_need (task) SELECT unnest($1::bigint[])").bind(ids);
    told.execute(connection).await.map(drop)
}

pub(crate) const BATCH_COUNTS: &str = "
SELECT i.batch, i.status, count(*) AS count
FROM unnest($2::bigint[]) AS asked (id)
CROSS JOIN LATERAL (
    SELECT t.batch, coalesce(o.status, CASE WHEN l.worker IS NOT NULL THEN 'PROCESSING' WHEN l.ready THEN 'PENDING'
        WHEN NOT l.ready THEN 'SCHEDULED' END) AS status
    FROM task t
    LEFT JOIN LATERAL (SELECT worker, ready FROM live WHERE live.id = t.id LIMIT 1) l ON true
    LEFT JOIN LATERAL (SELECT status FROM outcome WHERE outcome.task = t.id LIMIT 1) o ON true
    WHERE t.batch = asked.id AND ($1::text IS NULL OR t.tenant = $1)
) i
WHERE i.status IS NOT NULL GROUP BY i.batch, i.status";

/// How the items of these batches stand.
pub(crate) async fn count_items(
    connection: &mut PgConnection,
    tenant: Option<&Tenant>,
    batches: &[i64],
) -> Result<BTreeMap<i64, BatchCounts>, Fault> {
    let rows = sqlx::query(BATCH_COUNTS)
        .bind(tenant.map(Tenant::as_str))
        .bind(batches)
        .fetch_all(connection)
        .await?;
    let mut counts: BTreeMap<i64, BatchCounts> = BTreeMap::new();
    for row in &rows {
        let (status, count): (Status, i64) = (rows::status(row, "status")?, field(row, "count")?);
        counts.entry(field(row, "batch")?).or_default().add(status, count.unsigned_abs());
    }
    Ok(counts)
}

struct CountItems {
    tenant: Tenant,
    batches: Vec<i64>,
}

impl Operation for CountItems {
    type Output = Vec<(TaskId, BatchCounts)>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Self::Output, Fault> {
        let counts = count_items(connection, Some(&self.tenant), &self.batches).await?;
        Ok(counts.into_iter().map(|(id, counts)| (TaskId(id), counts)).collect())
    }
}

impl PostgresStore {
    pub(crate) async fn store_flow(
        &self,
        nodes: &[NewNode],
        items: Option<Arc<dyn BatchItems>>,
    ) -> Result<FlowStored, StoreError> {
        self.tallied();
        let operation = SubmitFlow { nodes: nodes.to_vec(), items, clock: self.clock.clone() };
        let (stored, over) = self.connections.run(operation).await?;
        if over {
            self.need_ended.notify_one();
        }
        Ok(stored)
    }

    pub(crate) async fn counts_of_batches(
        &self,
        tenant: &Tenant,
        batches: &[TaskId],
    ) -> Result<Vec<(TaskId, BatchCounts)>, StoreError> {
        if batches.is_empty() {
            return Ok(Vec::new());
        }
        let batches = in_lock_order(batches.iter().copied());
        self.connections.run(CountItems { tenant: tenant.clone(), batches }).await
    }
}

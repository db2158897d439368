//! How many tasks stand where: a sum of changes. Each batch adds its change in its own statement, so the sum is exact
//! at every moment, and nobody waits for anybody.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU32, Ordering},
};

use application::ports::{QueueCounts, StoreError};
use domain::{QueueName, Status, Tenant};
use sqlx::PgConnection;

use crate::{
    PostgresStore,
    connections::{Connections, Operation},
    error::Fault,
    rows::{self, field},
};

/// How many changes one process adds before it replaces all rows by their sum.
const COMPACT_EVERY: u32 = 500;
/// Held while compacting, in the family of this schema's locks: `task-sum` in ASCII.
const LOCK: i64 = 0x7461_736b_2d73_756d;

/// Counts this process's changes.
#[derive(Debug, Default)]
pub(crate) struct Tallies(AtomicU32);

struct Counts {
    tenant: Tenant,
}

impl Operation for Counts {
    type Output = Vec<QueueCounts>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<QueueCounts>, Fault> {
        let rows = sqlx::query(
            "SELECT queue, status, sum(count)::bigint AS count
             FROM tally_delta CROSS JOIN LATERAL (VALUES
                ('SCHEDULED', scheduled), ('PENDING', pending), ('PROCESSING', processing), ('COMPLETED', completed),
                ('FAILED', failed), ('CANCELLED', cancelled), ('EXPIRED', expired)
             ) AS part (status, count)
             WHERE tenant = $1 AND count <> 0 GROUP BY queue, status HAVING sum(count) <> 0",
        )
        .bind(self.tenant.as_str())
        .fetch_all(connection)
        .await?;
        let mut counts = BTreeMap::new();
        for row in &rows {
            let (queue, status): (QueueName, Status) =
                (rows::name(row, "queue")?, rows::status(row, "status")?);
            let count: i64 = field(row, "count")?;
            let count = u64::try_from(count).map_err(|_| {
                Fault::Unreadable(format!("the count of {} in {queue} is {count}", status.as_str()))
            })?;
            counts.insert((queue, status), count);
        }
        Ok(counts.into_iter().map(|((queue, status), count)| QueueCounts { queue, status, count }).collect())
    }
}

struct Compact;

impl Operation for Compact {
    type Output = ();

    /// One process at a time; the others need not wait, it is being done.
    async fn run(&self, connection: &mut PgConnection) -> Result<(), Fault> {
        sqlx::query(
            "WITH turn AS MATERIALIZED (SELECT pg_try_advisory_xact_lock($1) AS ours),
             taken AS (DELETE FROM tally_delta WHERE (SELECT ours FROM turn) RETURNING *)
             INSERT INTO tally_delta
                (tenant, queue, scheduled, pending, processing, completed, failed, cancelled, expired)
             SELECT tenant, queue, sum(scheduled), sum(pending), sum(processing), sum(completed), sum(failed),
                sum(cancelled), sum(expired)
             FROM taken GROUP BY tenant, queue",
        )
        .bind(LOCK)
        .execute(connection)
        .await?;
        Ok(())
    }
}

impl PostgresStore {
    pub(crate) async fn counts_of(&self, tenant: &Tenant) -> Result<Vec<QueueCounts>, StoreError> {
        self.connections.run(Counts { tenant: tenant.clone() }).await
    }

    /// Notes that a change is about to be added, and compacts in the background now and then.
    pub(crate) fn tallied(&self) {
        let added = self.tallies.0.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        if added.is_multiple_of(COMPACT_EVERY) {
            let connections: Connections = self.connections.clone();
            tokio::spawn(async move {
                // Only space and speed are at stake; the next one does it.
                if let Err(error) = connections.run(Compact).await {
                    tracing::debug!(%error, "the tallies were not compacted");
                }
            });
        }
    }
}

/// A change of the counts that was worked out here, for verbs that are no single statement.
#[derive(Debug, Default)]
pub(crate) struct Changes(BTreeMap<(Tenant, QueueName, &'static str), i64>);

impl Changes {
    pub(crate) fn add(&mut self, tenant: &Tenant, queue: &QueueName, status: Status, by: i64) {
        *self.0.entry((tenant.clone(), queue.clone(), status.as_str())).or_default() += by;
    }

    pub(crate) async fn apply(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let places = || self.0.keys();
        sqlx::query(
            "INSERT INTO tally_delta (tenant, queue, scheduled, pending, processing, completed, failed, cancelled, expired)
             SELECT tenant, queue,
                coalesce(sum(by) FILTER (WHERE status = 'SCHEDULED'), 0), coalesce(sum(by) FILTER (WHERE status = 'PENDING'), 0),
                coalesce(sum(by) FILTER (WHERE status = 'PROCESSING'), 0), coalesce(sum(by) FILTER (WHERE status = 'COMPLETED'), 0),
                coalesce(sum(by) FILTER (WHERE status = 'FAILED'), 0), coalesce(sum(by) FILTER (WHERE status = 'CANCELLED'), 0),
                coalesce(sum(by) FILTER (WHERE status = 'EXPIRED'), 0)
             FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[]) AS change (tenant, queue, status, by)
             GROUP BY tenant, queue",
        )
        .bind(places().map(|(tenant, ..)| tenant.as_str()).collect::<Vec<_>>())
        .bind(places().map(|(_, queue, _)| queue.as_str()).collect::<Vec<_>>())
        .bind(places().map(|(.., status)| *status).collect::<Vec<_>>())
        .bind(self.0.values().copied().collect::<Vec<_>>())
        .execute(connection)
        .await?;
        Ok(())
    }
}

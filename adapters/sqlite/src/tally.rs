//! How many tasks stand where, kept with each transaction as one sum of what its changes did.

use std::collections::BTreeMap;

use application::ports::{QueueCounts, StoreError};
use async_trait::async_trait;
use domain::{Status, Tenant};
use sqlx::SqliteConnection;

use crate::{
    error::store_error,
    rows::{pages, parse_queue, parse_status, unreadable},
    store::Query,
};

/// Changes of counts.
#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<(String, String, Status), i64>);

impl Tally {
    /// A task appears.
    pub(crate) fn enter(&mut self, tenant: &str, queue: &str, status: Status) {
        self.change(tenant, queue, status, 1);
    }

    /// A task disappears.
    pub(crate) fn leave(&mut self, tenant: &str, queue: &str, status: Status) {
        self.change(tenant, queue, status, -1);
    }

    /// A task's status changes.
    pub(crate) fn shift(&mut self, tenant: &str, queue: &str, from: Status, to: Status) {
        self.leave(tenant, queue, from);
        self.enter(tenant, queue, to);
    }

    /// Takes another one's changes in.
    pub(crate) fn add(&mut self, other: Self) {
        for (place, change) in other.0 {
            *self.0.entry(place).or_default() += change;
        }
    }

    fn change(&mut self, tenant: &str, queue: &str, status: Status, by: i64) {
        *self.0.entry((tenant.to_owned(), queue.to_owned(), status)).or_default() += by;
    }

    /// Writes the sum of all changes; once per transaction.
    pub(crate) async fn write(self, conn: &mut SqliteConnection) -> Result<(), sqlx::Error> {
        const MAKE: &str = "
            INSERT INTO tally (tenant, queue, status, count)
            SELECT value ->> 0, value ->> 1, value ->> 2, 0 FROM json_each(?1) WHERE true
            ON CONFLICT (tenant, queue, status) DO NOTHING";
        const CHANGE: &str = "
            UPDATE tally SET count = count + changed.by
            FROM (SELECT value ->> 0 AS tenant, value ->> 1 AS queue, value ->> 2 AS status, value ->> 3 AS by
                  FROM json_each(?1)) AS changed
            WHERE tally.tenant = changed.tenant AND tally.queue = changed.queue AND tally.status = changed.status";
        let changes = self.0.iter().filter(|(_, by)| **by != 0);
        for page in pages(changes.map(|((tenant, queue, status), by)| (tenant, queue, status.as_str(), by))) {
            sqlx::query(MAKE).bind(&page).execute(&mut *conn).await?;
            sqlx::query(CHANGE).bind(&page).execute(&mut *conn).await?;
        }
        Ok(())
    }
}

/// The counts of one tenant.
pub(crate) struct Counts {
    pub(crate) tenant: Tenant,
}

#[async_trait]
impl Query for Counts {
    type Answer = Vec<QueueCounts>;

    async fn run(self, snapshot: &mut SqliteConnection) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "SELECT queue, status, count FROM tally WHERE tenant = ?1 AND count > 0";
        let rows: Vec<(String, String, i64)> =
            sqlx::query_as(SQL).bind(self.tenant.as_str()).fetch_all(snapshot).await.map_err(store_error)?;
        let mut counts = Vec::with_capacity(rows.len());
        for (queue, status, count) in rows {
            let count = u64::try_from(count).map_err(|_| unreadable("a count", &count))?;
            counts.push(QueueCounts { queue: parse_queue(&queue)?, status: parse_status(&status)?, count });
        }
        counts.sort_by(|a, b| (&a.queue, a.status).cmp(&(&b.queue, b.status)));
        Ok(counts)
    }
}

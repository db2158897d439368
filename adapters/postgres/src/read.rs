//! Reading tasks: by id, and as lists.

use std::collections::BTreeMap;

use application::ports::{Health, ListPage, StoreError, TaskFilter};
use domain::{Status, Task, TaskId, Tenant};
use sqlx::{PgConnection, postgres::PgRow};

use crate::{
    PostgresStore,
    clock::Clock,
    connections::Operation,
    error::Fault,
    rows::{self, limit, select_tasks},
};

struct Read {
    tenant: Tenant,
    ids: Vec<i64>,
}

impl Operation for Read {
    type Output = Vec<Task>;

    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<Task>, Fault> {
        let rows = sqlx::query(select_tasks!(
            "FROM unnest($2::bigint[]) WITH ORDINALITY AS asked (id, place)
             JOIN task t ON t.id = asked.id AND t.tenant = $1",
            "ORDER BY asked.place"
        ))
        .bind(self.tenant.as_str())
        .bind(&self.ids)
        .fetch_all(connection)
        .await?;
        rows.iter().map(rows::task).collect()
    }
}

struct List {
    tenant: Tenant,
    filter: TaskFilter,
    page: ListPage,
}

impl Operation for List {
    type Output = Vec<Task>;

    /// Each statement walks one index downwards from the page's end, the one with the fewest rows to pass over.
    async fn run(&self, connection: &mut PgConnection) -> Result<Vec<Task>, Fault> {
        let statuses = &self.filter.statuses;
        if statuses.is_empty() {
            return self.all(connection).await?.iter().map(rows::task).collect();
        }
        // In this order: a task that ends in between is seen twice rather than not at all, and the later sight counts.
        let mut found = BTreeMap::new();
        let mut rows = Vec::new();
        if statuses.iter().any(|status| !status.is_terminal()) {
            rows.extend(self.unfinished(connection).await?);
        }
        if statuses.contains(&Status::Completed) {
            rows.extend(self.ended(connection).await?);
        } else if statuses.iter().any(|status| status.is_terminal()) {
            rows.extend(self.not_completed(connection).await?);
        }
        for row in &rows {
            let task = rows::task(row)?;
            found.insert(task.id, task);
        }
        Ok(found.into_values().rev().take(self.page.limit).collect())
    }
}

impl List {
    async fn all(&self, connection: &mut PgConnection) -> Result<Vec<PgRow>, sqlx::Error> {
        sqlx::query(select_tasks!(
            "FROM task t",
            "WHERE t.tenant = $1 AND t.id < $2 AND ($3::text IS NULL OR t.task_type = $3)
                AND ($4::text IS NULL OR t.queue = $4)
             ORDER BY t.id DESC LIMIT $5"
        ))
        .bind(self.tenant.as_str())
        .bind(self.before())
        .bind(self.filter.task_type.as_ref().map(|task_type| task_type.as_str()))
        .bind(self.filter.queue.as_ref().map(|queue| queue.as_str()))
        .bind(limit(self.page.limit))
        .fetch_all(connection)
        .await
    }

    async fn unfinished(&self, connection: &mut PgConnection) -> Result<Vec<PgRow>, sqlx::Error> {
        let wants = |status| self.filter.statuses.contains(&status);
        sqlx::query(select_tasks!(
            "FROM live f JOIN task t ON t.id = f.id",
            "WHERE f.tenant = $1 AND f.id < $2 AND ($3::text IS NULL OR t.task_type = $3)
                AND ($4::text IS NULL OR f.queue = $4)
                AND CASE WHEN f.worker IS NOT NULL THEN $6 WHEN f.ready THEN $7 ELSE $8 END
             ORDER BY f.id DESC LIMIT $5"
        ))
        .bind(self.tenant.as_str())
        .bind(self.before())
        .bind(self.filter.task_type.as_ref().map(|task_type| task_type.as_str()))
        .bind(self.filter.queue.as_ref().map(|queue| queue.as_str()))
        .bind(limit(self.page.limit))
        .bind(wants(Status::Processing))
        .bind(wants(Status::Pending))
        .bind(wants(Status::Scheduled))
        .fetch_all(connection)
        .await
    }

    async fn ended(&self, connection: &mut PgConnection) -> Result<Vec<PgRow>, sqlx::Error> {
        sqlx::query(select_tasks!(
            "FROM outcome f JOIN task t ON t.id = f.task",
            "WHERE t.tenant = $1 AND f.task < $2 AND ($3::text IS NULL OR t.task_type = $3)
                AND ($4::text IS NULL OR t.queue = $4) AND f.status = ANY($6)
             ORDER BY f.task DESC LIMIT $5"
        ))
        .bind(self.tenant.as_str())
        .bind(self.before())
        .bind(self.filter.task_type.as_ref().map(|task_type| task_type.as_str()))
        .bind(self.filter.queue.as_ref().map(|queue| queue.as_str()))
        .bind(limit(self.page.limit))
        .bind(self.statuses())
        .fetch_all(connection)
        .await
    }

    async fn not_completed(&self, connection: &mut PgConnection) -> Result<Vec<PgRow>, sqlx::Error> {
        sqlx::query(select_tasks!(
            "FROM outcome f JOIN task t ON t.id = f.task",
            "WHERE t.tenant = $1 AND f.task < $2 AND ($3::text IS NULL OR t.task_type = $3)
                AND ($4::text IS NULL OR t.queue = $4) AND f.status <> 'COMPLETED' AND f.status = ANY($6)
             ORDER BY f.task DESC LIMIT $5"
        ))
        .bind(self.tenant.as_str())
        .bind(self.before())
        .bind(self.filter.task_type.as_ref().map(|task_type| task_type.as_str()))
        .bind(self.filter.queue.as_ref().map(|queue| queue.as_str()))
        .bind(limit(self.page.limit))
        .bind(self.statuses())
        .fetch_all(connection)
        .await
    }

    fn before(&self) -> i64 {
        self.page.before.map_or(i64::MAX, |id| id.0)
    }

    fn statuses(&self) -> Vec<&'static str> {
        self.filter.statuses.iter().map(|status| status.as_str()).collect()
    }
}

struct Ping {
    clock: Clock,
}

impl Operation for Ping {
    type Output = Health;

    async fn run(&self, connection: &mut PgConnection) -> Result<Health, Fault> {
        let now = sqlx::query_scalar("SELECT coalesce($1, now())")
            .bind(self.clock.bind())
            .fetch_one(connection)
            .await?;
        Ok(Health { kind: "postgresql", now })
    }
}

impl PostgresStore {
    pub(crate) async fn read_tasks(&self, tenant: &Tenant, ids: &[TaskId]) -> Result<Vec<Task>, StoreError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let ids = ids.iter().map(|id| id.0).collect();
        self.connections.run(Read { tenant: tenant.clone(), ids }).await
    }

    pub(crate) async fn list_tasks(
        &self,
        tenant: &Tenant,
        filter: &TaskFilter,
        page: ListPage,
    ) -> Result<Vec<Task>, StoreError> {
        self.connections.run(List { tenant: tenant.clone(), filter: filter.clone(), page }).await
    }

    pub(crate) async fn health(&self) -> Result<Health, StoreError> {
        self.connections.run(Ping { clock: self.clock.clone() }).await
    }
}

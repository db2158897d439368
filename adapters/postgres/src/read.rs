//! Reading tasks: by id, and as lists.

use std::cmp::Reverse;

use application::ports::{Health, ListPage, StoreError, TaskFilter};
use domain::{Status, Task, TaskId, Tenant};
use sqlx::{Connection, PgConnection, postgres::PgRow};

use crate::{
    PostgresStore,
    clock::Clock,
    connections::Operation,
    error::Fault,
    rows::{self, limit, moment, select_tasks},
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
        if let Some(batch) = self.filter.batch {
            return self.items(connection, batch).await?.iter().map(rows::task).collect();
        }
        let Some(statuses) = self.wanted() else {
            return self.all(connection).await?.iter().map(rows::task).collect();
        };
        let unfinished = statuses.iter().any(|status| !status.is_terminal());
        let ended = statuses.iter().any(|status| status.is_terminal());
        let mut rows = Vec::new();
        if unfinished && ended {
            // Both in one sight of the database: tasks go from one side to the other, and back.
            let mut sight = connection.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            rows.extend(self.unfinished(&mut sight, &statuses).await?);
            rows.extend(self.ended(&mut sight, &statuses).await?);
            sight.commit().await?;
        } else if unfinished {
            rows = self.unfinished(connection, &statuses).await?;
        } else if ended {
            rows = self.ended(connection, &statuses).await?;
        }
        let mut tasks = rows.iter().map(rows::task).collect::<Result<Vec<_>, _>>()?;
        tasks.sort_unstable_by_key(|task| Reverse(task.id));
        tasks.truncate(self.page.limit);
        Ok(tasks)
    }
}

impl List {
    /// The states in which a task can pass the filter; `None` for any.
    fn wanted(&self) -> Option<Vec<Status>> {
        let TaskFilter { statuses, error_code, ended_before, .. } = &self.filter;
        let asked = if statuses.is_empty() { &Status::ALL[..] } else { statuses };
        let possible = |status: &Status| match (error_code, ended_before) {
            (Some(_), _) => status.is_terminal() && *status != Status::Completed,
            (None, Some(_)) => status.is_terminal(),
            (None, None) => true,
        };
        let wanted: Vec<_> = asked.iter().copied().filter(possible).collect();
        (!statuses.is_empty() || wanted.len() < Status::ALL.len()).then_some(wanted)
    }

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

    /// The items of one batch, by their own index.
    async fn items(&self, connection: &mut PgConnection, batch: TaskId) -> Result<Vec<PgRow>, sqlx::Error> {
        sqlx::query(select_tasks!(
            "FROM task t",
            "WHERE t.batch = $6 AND t.tenant = $1 AND t.id < $2 AND ($3::text IS NULL OR t.task_type = $3)
                AND ($4::text IS NULL OR t.queue = $4)
                AND ($7::text[] IS NULL OR coalesce(o.status, CASE WHEN l.worker IS NOT NULL THEN 'PROCESSING'
                    WHEN l.ready THEN 'PENDING' ELSE 'SCHEDULED' END) = ANY($7))
                AND ($8::text IS NULL OR o.error::json ->> 'code' = $8)
                AND ($9::timestamptz IS NULL OR o.ended_at < $9)
             ORDER BY t.id DESC LIMIT $5"
        ))
        .bind(self.tenant.as_str())
        .bind(self.before())
        .bind(self.filter.task_type.as_ref().map(|task_type| task_type.as_str()))
        .bind(self.filter.queue.as_ref().map(|queue| queue.as_str()))
        .bind(limit(self.page.limit))
        .bind(batch.0)
        .bind(self.wanted().map(|all| all.iter().map(|status| status.as_str()).collect::<Vec<_>>()))
        .bind(self.filter.error_code.as_deref())
        .bind(self.filter.ended_before.map(moment))
        .fetch_all(connection)
        .await
    }

    async fn unfinished(
        &self,
        connection: &mut PgConnection,
        statuses: &[Status],
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let wants = |status| statuses.contains(&status);
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

    async fn ended(
        &self,
        connection: &mut PgConnection,
        statuses: &[Status],
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        macro_rules! ended {
            ($and:literal) => {
                select_tasks!(
                    "FROM outcome f JOIN task t ON t.id = f.task",
                    concat!(
                        "WHERE t.tenant = $1 AND f.task < $2 AND ($3::text IS NULL OR t.task_type = $3)
                            AND ($4::text IS NULL OR t.queue = $4) AND f.status = ANY($6)
                            AND ($7::text IS NULL OR f.error::json ->> 'code' = $7)
                            AND ($8::timestamptz IS NULL OR f.ended_at < $8)",
                        $and,
                        " ORDER BY f.task DESC LIMIT $5"
                    )
                )
            };
        }
        // Most tasks complete: without those there is an index of a few.
        let sql = if statuses.contains(&Status::Completed) {
            ended!("")
        } else {
            ended!(" AND f.status <> 'COMPLETED'")
        };
        sqlx::query(sql)
            .bind(self.tenant.as_str())
            .bind(self.before())
            .bind(self.filter.task_type.as_ref().map(|task_type| task_type.as_str()))
            .bind(self.filter.queue.as_ref().map(|queue| queue.as_str()))
            .bind(limit(self.page.limit))
            .bind(statuses.iter().map(|status| status.as_str()).collect::<Vec<_>>())
            .bind(self.filter.error_code.as_deref())
            .bind(self.filter.ended_before.map(moment))
            .fetch_all(connection)
            .await
    }

    fn before(&self) -> i64 {
        self.page.before.map_or(i64::MAX, |id| id.0)
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

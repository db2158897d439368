//! Submitting once: what idempotency keys were used for, and which tasks stand in the way of unique ones.

use std::collections::HashMap;

use application::ports::{Receipt, StoreError, Submitted};
use async_trait::async_trait;
use domain::{Idempotency, NewTask, Rank, Status, TaskId, Tenant, Unique};

use crate::{
    clock::micros,
    error::store_error,
    flow::NEVER,
    rows::{moment, moment_if},
    writer::{Change, Write},
};

/// The first uses of keys in one submission, which are not in the tables yet.
#[derive(Default)]
pub(crate) struct Known<'t> {
    keys: HashMap<(&'t Tenant, &'t str), ([u8; 32], Receipt)>,
    unique: Vec<(&'t Tenant, &'t str, Receipt, Status)>,
}

impl<'t> Known<'t> {
    /// What a task comes to that is not to be stored.
    pub(crate) async fn find(
        &self,
        write: &mut Write<'_>,
        task: &'t NewTask,
    ) -> Result<Option<Submitted>, StoreError> {
        if let Some(once) = &task.idempotency
            && let Some((fingerprint, receipt)) = self.first_use(write, &task.tenant, once).await?
        {
            let same = fingerprint == once.fingerprint;
            let (replayed, reused) = (Submitted::Replayed(receipt), Submitted::KeyReused(receipt.id));
            return Ok(Some(if same { replayed } else { reused }));
        }
        let Some(unique) = &task.unique else { return Ok(None) };
        Ok(self.in_the_way(write, &task.tenant, unique).await?.map(Submitted::Existing))
    }

    async fn first_use(
        &self,
        write: &mut Write<'_>,
        tenant: &Tenant,
        once: &Idempotency,
    ) -> Result<Option<([u8; 32], Receipt)>, StoreError> {
        const SQL: &str = "
            SELECT fingerprint, task, created_at, run_at FROM idempotency_key
            WHERE tenant = ?1 AND key = ?2 AND created_at > ?3";
        if let Some(used) = self.keys.get(&(tenant, once.key.as_str())) {
            return Ok(Some(*used));
        }
        let row: Option<(Vec<u8>, i64, i64, Option<i64>)> = sqlx::query_as(SQL)
            .bind(tenant.as_str())
            .bind(once.key.as_str())
            .bind(write.now.saturating_sub(micros(Idempotency::KEPT)))
            .fetch_optional(&mut *write.conn)
            .await
            .map_err(store_error)?;
        let Some((fingerprint, task, created_at, run_at)) = row else { return Ok(None) };
        let wrong =
            || StoreError::Corrupt("the fingerprint of an idempotency key has another length".to_owned());
        let fingerprint = fingerprint.try_into().map_err(|_| wrong())?;
        let receipt = Receipt {
            id: TaskId(task),
            created_at: moment(created_at)?,
            run_at: moment_if(run_at.filter(|at| *at != NEVER))?,
            rank: Rank(task),
        };
        Ok(Some((fingerprint, receipt)))
    }

    /// The newest task that meets a unique one.
    async fn in_the_way(
        &self,
        write: &mut Write<'_>,
        tenant: &Tenant,
        unique: &Unique,
    ) -> Result<Option<TaskId>, StoreError> {
        const SQL: &str = "
            SELECT t.id FROM task AS t
            LEFT JOIN live AS l ON l.task = t.id
            LEFT JOIN outcome AS o ON o.task = t.id
            WHERE t.tenant = ?1 AND t.unique_key = ?2 AND t.created_at >= ?3
              AND instr(?4, ',' || coalesce(l.state, o.status) || ',')
            ORDER BY t.id DESC LIMIT 1";
        let now = moment(write.now)?;
        let own = self.unique.iter().rev().find(|(owner, key, receipt, status)| {
            *owner == tenant
                && *key == unique.key.as_str()
                && unique.is_met_by(*status, receipt.created_at, now)
        });
        if let Some((_, _, receipt, _)) = own {
            return Ok(Some(receipt.id));
        }
        let among: Vec<_> = unique.among.iter().map(|status| status.as_str()).collect();
        let since = unique.window.map_or(i64::MIN, |window| write.now.saturating_sub(micros(window)));
        let id: Option<i64> = sqlx::query_scalar(SQL)
            .bind(tenant.as_str())
            .bind(unique.key.as_str())
            .bind(since)
            .bind(format!(",{},", among.join(",")))
            .fetch_optional(&mut *write.conn)
            .await
            .map_err(store_error)?;
        Ok(id.map(TaskId))
    }

    /// Takes note of a task that is to be stored.
    pub(crate) fn note(&mut self, task: &'t NewTask, receipt: Receipt, status: Status) {
        if let Some(once) = &task.idempotency {
            self.keys.insert((&task.tenant, once.key.as_str()), (once.fingerprint, receipt));
        }
        if let Some(unique) = &task.unique {
            self.unique.push((&task.tenant, unique.key.as_str(), receipt, status));
        }
    }

    /// Keeps the first uses of keys. One that is there already is one whose time is over.
    pub(crate) async fn remember(&self, write: &mut Write<'_>) -> Result<(), StoreError> {
        const SQL: &str = "
            INSERT INTO idempotency_key (tenant, key, fingerprint, task, created_at, run_at)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6)
            ON CONFLICT (tenant, key) DO UPDATE SET fingerprint = excluded.fingerprint, task = excluded.task,
                created_at = excluded.created_at, run_at = excluded.run_at";
        for ((tenant, key), (fingerprint, receipt)) in &self.keys {
            sqlx::query(SQL)
                .bind(tenant.as_str())
                .bind(*key)
                .bind(fingerprint.as_slice())
                .bind(receipt.id.0)
                .bind(receipt.created_at.timestamp_micros())
                .bind(receipt.run_at.map(|at| at.timestamp_micros()))
                .execute(&mut *write.conn)
                .await
                .map_err(store_error)?;
        }
        Ok(())
    }
}

/// Forgets keys whose time is over.
pub(crate) struct ForgetKeys {
    pub(crate) limit: usize,
}

#[async_trait]
impl Change for ForgetKeys {
    type Answer = usize;

    async fn apply(&self, write: &mut Write<'_>) -> Result<Self::Answer, StoreError> {
        const SQL: &str = "
            DELETE FROM idempotency_key WHERE (tenant, key) IN (
                SELECT tenant, key FROM idempotency_key WHERE created_at <= ?1 ORDER BY created_at LIMIT ?2)";
        let deleted = sqlx::query(SQL)
            .bind(write.now.saturating_sub(micros(Idempotency::KEPT)))
            .bind(i64::try_from(self.limit).unwrap_or(i64::MAX))
            .execute(&mut *write.conn)
            .await
            .map_err(store_error)?;
        Ok(usize::try_from(deleted.rows_affected()).unwrap_or(usize::MAX))
    }
}

//! Forgetting idempotency keys whose time is over.

use application::ports::StoreError;
use domain::Idempotency;
use sqlx::PgConnection;

use crate::{
    PostgresStore,
    clock::Clock,
    connections::Operation,
    error::Fault,
    rows::{interval, limit},
};

/// By their places in the table, where they stay while they are locked. Those that a submission renews at this moment
/// are left alone.
pub(crate) const FORGET_KEYS: &str = "
DELETE FROM idempotency_key WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM idempotency_key WHERE created_at <= coalesce($1, now()) - $2
    ORDER BY created_at LIMIT $3 FOR UPDATE SKIP LOCKED
))";

struct ForgetKeys {
    limit: usize,
    clock: Clock,
}

impl Operation for ForgetKeys {
    type Output = usize;

    async fn run(&self, connection: &mut PgConnection) -> Result<usize, Fault> {
        let query = sqlx::query(FORGET_KEYS).bind(self.clock.bind()).bind(interval(Idempotency::KEPT));
        let forgotten = query.bind(limit(self.limit)).execute(connection).await?;
        Ok(usize::try_from(forgotten.rows_affected()).unwrap_or(usize::MAX))
    }
}

impl PostgresStore {
    pub(crate) async fn forget_old_keys(&self, limit: usize) -> Result<usize, StoreError> {
        self.connections.run(ForgetKeys { limit, clock: self.clock.clone() }).await
    }
}

-- no-transaction
-- The items of a batch.
CREATE INDEX CONCURRENTLY IF NOT EXISTS task_batch ON task (batch, id) WHERE batch IS NOT NULL;

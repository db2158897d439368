-- no-transaction
-- Finding an ended task by its unique key, the newest first.
CREATE INDEX CONCURRENTLY IF NOT EXISTS task_unique_key ON task (tenant, unique_key, id) WHERE unique_key IS NOT NULL;

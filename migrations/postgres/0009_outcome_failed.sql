-- no-transaction
-- What waits for a person: grouped by reason, and removed when it is old.
CREATE INDEX CONCURRENTLY IF NOT EXISTS outcome_failed ON outcome (ended_at) WHERE status = 'FAILED';

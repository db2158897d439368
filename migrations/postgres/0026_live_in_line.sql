-- no-transaction
-- The order of those that wait, by rank where they have one.
CREATE INDEX CONCURRENTLY IF NOT EXISTS live_in_line ON live (queue, lane, priority, (coalesce(rank, id))) WHERE ready;

-- no-transaction
-- Finding an unfinished task by its unique key, however many have ended with the same one.
CREATE INDEX CONCURRENTLY IF NOT EXISTS live_unique_key ON live (tenant, unique_key, id) WHERE unique_key IS NOT NULL;

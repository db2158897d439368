-- The batch that a task is an item of, and what it waits for and what waits for it, as JSON.
ALTER TABLE task
    ADD COLUMN batch bigint,
    ADD COLUMN needs text;

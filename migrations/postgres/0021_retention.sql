-- Which ended tasks are due to be removed, without an index on the history: a walk goes through the tasks by id, each once,
-- when it is old enough to be due, and notes here what it has to look at again. So do tasks with a retention of their own,
-- and those that are run again after the walk has passed them.
CREATE TABLE retention_look (
    task    bigint      NOT NULL,
    look_at timestamptz NOT NULL,
    PRIMARY KEY (task)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX retention_look_due ON retention_look (look_at);

-- How far the walk has come. It begins anew where the rules have changed; while processes disagree about them, those that
-- walk go on, and the others wait until these have been silent for a while.
CREATE TABLE retention_walk (
    one       boolean     NOT NULL DEFAULT true,
    walked_to bigint      NOT NULL DEFAULT 0,
    walked_at timestamptz NOT NULL DEFAULT '-infinity',
    rules     text        NOT NULL DEFAULT '',
    PRIMARY KEY (one),
    CONSTRAINT retention_walk_one CHECK (one)
) WITH (fillfactor = 50);
INSERT INTO retention_walk DEFAULT VALUES;

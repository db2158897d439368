-- Fair queues: lanes take turns (domain::fair).

-- Whose share a task takes, and the tokens that it is expected to use; `cost` is NULL where its queue was not a fair one.
ALTER TABLE task ADD COLUMN fairness_key TEXT;
ALTER TABLE task ADD COLUMN cost INTEGER;

-- The place among those that are as urgent, where that is not the number: -1 until its lane has given it one.
ALTER TABLE live ADD COLUMN rank INTEGER;

-- The highest rank that was started in a queue.
CREATE TABLE fair_queue (
    queue TEXT    PRIMARY KEY,
    clock INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- What is kept of a lane; an empty key stands for the tasks without one. One whose `next` the clock has passed is forgotten.
CREATE TABLE fair_lane (
    queue      TEXT    NOT NULL,
    tenant     TEXT    NOT NULL,
    key        TEXT    NOT NULL,
    next       INTEGER NOT NULL,
    used       INTEGER,          -- thousandths of what was expected
    changed_at INTEGER NOT NULL,
    PRIMARY KEY (queue, tenant, key)
) STRICT, WITHOUT ROWID;

-- The order of those that wait, by rank where they have one.
DROP INDEX live_order;
CREATE INDEX live_order ON live (queue, lane, priority, coalesce(rank, task)) WHERE state = 'PENDING';

-- Fair queues: lanes take turns (domain::fair).

-- Whose share a task takes, and the tokens that it is expected to use; `cost` is NULL where its queue was not a fair one.
ALTER TABLE task
    ADD COLUMN fairness_key text COLLATE "C",
    ADD COLUMN cost         integer;

-- The place among those that are as urgent, where that is not the number: -1 until its lane has given it one.
ALTER TABLE live ADD COLUMN rank bigint;

-- The highest rank that was started in a queue.
CREATE TABLE fair_queue (
    clock bigint NOT NULL,
    queue text   COLLATE "C" PRIMARY KEY
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- What is kept of a lane; an empty key stands for the tasks without one. One whose `next` the clock has passed is forgotten.
CREATE TABLE fair_lane (
    next       bigint      NOT NULL,
    changed_at timestamptz NOT NULL,
    used       integer,                                 -- thousandths of what was expected
    queue      text        COLLATE "C" NOT NULL,
    tenant     text        COLLATE "C" NOT NULL,
    key        text        COLLATE "C" NOT NULL,
    PRIMARY KEY (queue, tenant, key)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

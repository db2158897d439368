-- Queues as their operators see them.

-- One row per queue of which there is something to keep. `rate_arrival` is the state of its rate limit (the theoretical
-- arrival time of the generic cell rate algorithm). Claims from a queue with limits lock its row: they go one by one.
CREATE TABLE queue_state (
    changed_at   timestamptz NOT NULL,                      -- when it was last paused or resumed
    rate_arrival timestamptz,
    paused       boolean     NOT NULL DEFAULT false,
    queue        text        COLLATE "C" NOT NULL,
    PRIMARY KEY (queue)
) WITH (fillfactor = 50);

-- How many attempts ended in a minute, by about how long they took (`length`: four steps to each doubling, from 1 ms).
-- Workers add to it every other second; it is kept for about an hour.
CREATE TABLE queue_run (
    minute timestamptz NOT NULL,
    ended  bigint      NOT NULL,
    failed bigint      NOT NULL,                            -- of these, with an error
    took   bigint      NOT NULL,                            -- microseconds, together
    length smallint    NOT NULL,
    queue  text        COLLATE "C" NOT NULL,
    PRIMARY KEY (minute, queue, length)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

-- From here on `live.priority` is what waiting has made of a task's priority, and decides who goes next; `task.priority` is
-- the one that was asked for last, and is shown.

-- What a worker does not serve, whatever else. NULL: nothing.
ALTER TABLE worker ADD COLUMN except_queues text[] COLLATE "C";

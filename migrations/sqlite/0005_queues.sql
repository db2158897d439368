-- Queues as their operators see them.

-- One row per queue of which there is something to keep. `rate_arrival` is the state of its rate limit (the theoretical
-- arrival time of the generic cell rate algorithm).
CREATE TABLE queue_state (
    queue        TEXT PRIMARY KEY,
    paused       INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1)),
    rate_arrival INTEGER
) STRICT, WITHOUT ROWID;

-- How many attempts ended in a minute (since 1970), by about how long they took (`length`: four steps to each doubling, from
-- 1 ms). It is kept for about an hour.
CREATE TABLE queue_run (
    minute INTEGER NOT NULL,
    queue  TEXT NOT NULL,
    length INTEGER NOT NULL,
    ended  INTEGER NOT NULL,
    failed INTEGER NOT NULL, -- of these, with an error
    took   INTEGER NOT NULL, -- microseconds, together
    PRIMARY KEY (minute, queue, length)
) STRICT, WITHOUT ROWID;

-- From here on `live.priority` is what waiting has made of a task's priority, and decides who goes next; `task.priority` is
-- the one that was asked for last, and is shown.

-- What a worker does not serve, whatever else: a JSON array.
ALTER TABLE worker ADD COLUMN except_queues TEXT NOT NULL DEFAULT '[]';

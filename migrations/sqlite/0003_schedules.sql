-- Schedules, and what became of their ticks.

-- `revision` rises with every change and every firing; whoever writes must have seen the one before.
CREATE TABLE schedule (
    id              INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant          TEXT NOT NULL,
    name            TEXT NOT NULL,
    revision        INTEGER NOT NULL DEFAULT 1,
    next_tick       INTEGER, -- NULL: it stands still
    last_tick       INTEGER,
    last_task       INTEGER,
    every_ms        INTEGER, -- every so often, from `every_from` on …
    every_from      INTEGER,
    cron            TEXT, -- … or by an expression, on the clock of `time_zone`
    time_zone       TEXT,
    catch_up        TEXT NOT NULL,
    overlap         TEXT NOT NULL,
    paused          INTEGER NOT NULL CHECK (paused IN (0, 1)),
    type            TEXT NOT NULL,
    queue           TEXT NOT NULL,
    priority        INTEGER NOT NULL,
    input           TEXT NOT NULL,
    metadata        TEXT,
    max_attempts    INTEGER NOT NULL,
    soft_time_limit INTEGER, -- microseconds
    time_limit      INTEGER NOT NULL, -- microseconds
    created_at      INTEGER NOT NULL,
    updated_at      INTEGER NOT NULL,
    UNIQUE (tenant, name),
    CHECK ((cron IS NULL) = (time_zone IS NULL)),
    CHECK ((every_ms IS NULL) = (every_from IS NULL)),
    CHECK ((cron IS NULL) <> (every_ms IS NULL))
) STRICT;

CREATE INDEX schedule_due ON schedule (next_tick, id) WHERE next_tick IS NOT NULL;

-- The key is the promise that a tick is fired once.
CREATE TABLE firing (
    schedule INTEGER NOT NULL REFERENCES schedule (id) ON DELETE CASCADE,
    tick     INTEGER NOT NULL, -- or the first of a run of ticks that were skipped
    at       INTEGER NOT NULL,
    task     INTEGER, -- the task that it submitted
    until    INTEGER, -- the last tick of a run that was skipped
    ticks    INTEGER, -- how many they were
    reason   TEXT, -- and why
    PRIMARY KEY (schedule, tick),
    CHECK ((task IS NULL) = (reason IS NOT NULL)),
    CHECK ((reason IS NULL) = (until IS NULL) AND (reason IS NULL) = (ticks IS NULL))
) STRICT, WITHOUT ROWID;

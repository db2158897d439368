-- Schedules, and what became of their ticks.

-- `revision` rises with every change and every firing; whoever writes must have seen the one before.
CREATE TABLE schedule (
    id              bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    revision        bigint      NOT NULL DEFAULT 1,
    next_tick       timestamptz,                        -- NULL: it stands still
    last_tick       timestamptz,
    last_task       bigint,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL,
    every_ms        bigint,                             -- every so often, from `every_from` on …
    every_from      timestamptz,
    cron            text,                               -- … or by an expression, on the clock of `time_zone`
    time_zone       text,
    soft_time_limit bigint,                             -- microseconds
    time_limit      bigint      NOT NULL,               -- microseconds
    max_attempts    integer     NOT NULL,
    priority        smallint    NOT NULL,
    paused          boolean     NOT NULL,
    catch_up        text        NOT NULL,
    overlap         text        NOT NULL,
    tenant          text        COLLATE "C" NOT NULL,
    name            text        COLLATE "C" NOT NULL,
    task_type       text        COLLATE "C" NOT NULL,
    queue           text        COLLATE "C" NOT NULL,
    input           text        NOT NULL,
    metadata        text,
    PRIMARY KEY (id),
    UNIQUE (tenant, name),
    CONSTRAINT schedule_cadence CHECK (
        (cron IS NULL) = (time_zone IS NULL) AND (every_ms IS NULL) = (every_from IS NULL)
        AND (cron IS NULL) <> (every_ms IS NULL))
);
CREATE INDEX schedule_due ON schedule (next_tick) WHERE next_tick IS NOT NULL;

-- The primary key is the promise that a tick is fired once.
CREATE TABLE firing (
    schedule bigint      NOT NULL REFERENCES schedule ON DELETE CASCADE,
    tick     timestamptz NOT NULL,                      -- or the first of a run of ticks that were skipped
    at       timestamptz NOT NULL,
    task     bigint,                                    -- the task that it submitted
    until    timestamptz,                               -- the last tick of a run that was skipped
    ticks    integer,                                   -- how many they were
    reason   text        COLLATE "C",                   -- and why
    PRIMARY KEY (schedule, tick),
    CONSTRAINT firing_kind CHECK (
        (task IS NULL) = (reason IS NOT NULL) AND (reason IS NULL) = (until IS NULL) AND (reason IS NULL) = (ticks IS NULL))
) WITH (autovacuum_vacuum_scale_factor = 0.05);

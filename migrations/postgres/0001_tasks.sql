-- Tasks, their lives and their workers.
--
-- What is written once is kept apart from what changes: `task` and `outcome` are only inserted; `live` holds one narrow
-- row per unfinished task. A claim changes `live.worker`, `attempt`, `started_at` and `changed_at`; no index and no
-- index predicate names one of these, so that a claim touches no index (a heap-only update).
--
-- Names are compared byte by byte (COLLATE "C"): it is faster, and the order of queues is the same on every machine.

CREATE SEQUENCE task_id AS bigint;

-- The submission, as it was validated and routed. JSON is kept as its text.
CREATE TABLE task (
    id              bigint      NOT NULL DEFAULT nextval('task_id'),
    created_at      timestamptz NOT NULL,
    expires_at      timestamptz,
    soft_time_limit bigint,                             -- microseconds
    time_limit      bigint      NOT NULL,               -- microseconds
    max_attempts    integer     NOT NULL,
    priority        smallint    NOT NULL,
    tenant          text        COLLATE "C" NOT NULL,
    task_type       text        COLLATE "C" NOT NULL,
    queue           text        COLLATE "C" NOT NULL,
    input           text        NOT NULL,
    metadata        text,
    PRIMARY KEY (id)
);
ALTER SEQUENCE task_id OWNED BY task.id;

-- Where an unfinished task stands:
--   SCHEDULED   NOT ready                        waits for due_at
--   PENDING     ready AND worker IS NULL         waits for a worker
--   PROCESSING  ready AND worker IS NOT NULL     held by that worker, as this attempt
CREATE TABLE live (
    id               bigint      NOT NULL,
    worker           bigint,
    due_at           timestamptz,
    expires_at       timestamptz,
    started_at       timestamptz,                       -- of the latest attempt
    changed_at       timestamptz,                       -- of the latest change of state
    attempt          integer     NOT NULL DEFAULT 0,
    failures         integer     NOT NULL DEFAULT 0,
    crashes          integer     NOT NULL DEFAULT 0,
    lane             integer     NOT NULL DEFAULT 0,    -- one lane until tenants and budgets have their own
    priority         smallint    NOT NULL,
    ready            boolean     NOT NULL,
    cancel_requested boolean     NOT NULL DEFAULT false,
    suspect          boolean     NOT NULL DEFAULT false,
    tenant           text        COLLATE "C" NOT NULL,
    queue            text        COLLATE "C" NOT NULL,
    error            text,                              -- of the latest attempt, while the next one waits or runs
    PRIMARY KEY (id),
    CONSTRAINT live_state CHECK (ready = (due_at IS NULL) AND (worker IS NULL OR ready))
) WITH (
    -- Room on each page for the next version of all its rows. A claim fills columns that were NULL, so the next version
    -- is up to a third longer: with 50, one claim in five would find no room and touch every index.
    fillfactor = 40,
    -- The table turns over completely every few seconds under load: clean up by number, not by share.
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000,
    autovacuum_vacuum_cost_delay = 0
);
CREATE INDEX live_waiting ON live (queue, lane, priority, id) WHERE ready;
CREATE INDEX live_due ON live (due_at) WHERE NOT ready;
CREATE INDEX live_expires ON live (expires_at) WHERE expires_at IS NOT NULL;
CREATE INDEX live_cancel_requested ON live (id) WHERE cancel_requested;

-- One start of a worker process; its heartbeat is the lease of all that it holds. Rows stay: outcomes name them.
CREATE TABLE worker (
    id           bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    started_at   timestamptz NOT NULL,
    heartbeat_at timestamptz NOT NULL,
    retired_at   timestamptz,                           -- it left in good order
    dead_at      timestamptz,                           -- it was declared dead
    released_at  timestamptz,                           -- it is gone and holds nothing any more
    lease        interval    NOT NULL,
    concurrency  bigint      NOT NULL,
    name         text        COLLATE "C" NOT NULL,
    queues       text[]      COLLATE "C" NOT NULL,      -- empty: every queue
    PRIMARY KEY (id),
    CONSTRAINT worker_end CHECK (retired_at IS NULL OR dead_at IS NULL)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);
CREATE INDEX worker_alive ON worker (id) WHERE dead_at IS NULL AND retired_at IS NULL;
CREATE INDEX worker_unreleased ON worker (id)
    WHERE (dead_at IS NOT NULL OR retired_at IS NOT NULL) AND released_at IS NULL;

-- What a worker took in one claim: how the tasks of a dead worker are found without an index on `live.worker`.
-- A row goes when all of its tasks are settled. A lost row costs time, not a task: an audit reads `live` itself.
CREATE TABLE claim_batch (
    id     bigint   NOT NULL GENERATED ALWAYS AS IDENTITY,
    worker bigint   NOT NULL,
    ids    bigint[] NOT NULL,
    PRIMARY KEY (id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);
CREATE INDEX claim_batch_worker ON claim_batch (worker);

-- How a task ended; the primary key is the promise that it ends once.
CREATE TABLE outcome (
    task            bigint      NOT NULL,
    worker          bigint,                             -- NULL: it ended while it waited
    started_at      timestamptz,                        -- of the latest attempt
    ended_at        timestamptz NOT NULL,
    attempt         integer     NOT NULL,
    failures        integer     NOT NULL,
    crashes         integer     NOT NULL,
    status          text        COLLATE "C" NOT NULL,
    attempt_outcome text        COLLATE "C",            -- NULL: it ended while it waited
    result          text,
    details         text,
    error           text,
    PRIMARY KEY (task),
    CONSTRAINT outcome_status CHECK (status IN ('COMPLETED', 'FAILED', 'CANCELLED', 'EXPIRED'))
);
-- Lists of what went wrong, among many that did not.
CREATE INDEX outcome_not_completed ON outcome (task) WHERE status <> 'COMPLETED';

-- Attempts that did not end their task.
CREATE TABLE attempt (
    task       bigint      NOT NULL,
    worker     bigint      NOT NULL,
    started_at timestamptz NOT NULL,
    ended_at   timestamptz NOT NULL,
    attempt    integer     NOT NULL,
    outcome    text        COLLATE "C" NOT NULL,
    error      text,
    PRIMARY KEY (task, attempt)
);

-- The last reported progress. The numbers are unsigned 64-bit ones, kept by their bits.
CREATE TABLE progress (
    task       bigint      NOT NULL,
    updated_at timestamptz NOT NULL,
    current    bigint      NOT NULL,
    total      bigint      NOT NULL,
    attempt    integer     NOT NULL,
    message    text,
    PRIMARY KEY (task)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

-- Live output, as it was coalesced.
CREATE TABLE chunk (
    task    bigint  NOT NULL,
    seq     bigint  NOT NULL,
    attempt integer NOT NULL,
    text    text    NOT NULL,
    PRIMARY KEY (task, attempt, seq)
);

-- How many tasks stand where, as a sum of changes: each batch adds a row in its own transaction, and now and then all
-- rows are replaced by their sum.
CREATE TABLE tally_delta (
    scheduled  bigint NOT NULL DEFAULT 0,
    pending    bigint NOT NULL DEFAULT 0,
    processing bigint NOT NULL DEFAULT 0,
    completed  bigint NOT NULL DEFAULT 0,
    failed     bigint NOT NULL DEFAULT 0,
    cancelled  bigint NOT NULL DEFAULT 0,
    expired    bigint NOT NULL DEFAULT 0,
    tenant     text   COLLATE "C" NOT NULL,
    queue      text   COLLATE "C" NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

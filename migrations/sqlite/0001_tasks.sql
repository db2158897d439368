-- Tasks, what runs them and what became of them. Every row that belongs to a task carries its tenant.
-- Times are microseconds since 1970 in UTC; JSON is kept as the text it came in.

-- The submission: written once, never changed.
CREATE TABLE task (
    id              INTEGER PRIMARY KEY AUTOINCREMENT, -- never reused
    tenant          TEXT NOT NULL,
    type            TEXT NOT NULL,
    queue           TEXT NOT NULL,
    priority        INTEGER NOT NULL CHECK (priority BETWEEN 0 AND 9), -- 0 goes first
    input           TEXT NOT NULL,
    metadata        TEXT,
    max_attempts    INTEGER NOT NULL,
    soft_time_limit INTEGER, -- microseconds
    time_limit      INTEGER NOT NULL, -- microseconds
    run_at          INTEGER, -- not before; NULL: at once
    expires_at      INTEGER,
    created_at      INTEGER NOT NULL
) STRICT;

CREATE INDEX task_list ON task (tenant, id);

-- One start of one worker process: the lease of all that it holds.
CREATE TABLE worker (
    id             INTEGER PRIMARY KEY AUTOINCREMENT,
    name           TEXT NOT NULL,
    queues         TEXT NOT NULL, -- a JSON array; empty: every queue
    concurrency    INTEGER NOT NULL,
    lease          INTEGER NOT NULL, -- microseconds
    state          TEXT NOT NULL CHECK (state IN ('alive', 'retired', 'dead')),
    registered_at  INTEGER NOT NULL,
    last_heartbeat INTEGER NOT NULL
) STRICT;

CREATE INDEX worker_alive ON worker (id) WHERE state = 'alive';

-- One narrow row per unfinished task: where it stands.
CREATE TABLE live (
    task             INTEGER PRIMARY KEY REFERENCES task (id) ON DELETE CASCADE,
    tenant           TEXT NOT NULL,
    queue            TEXT NOT NULL,
    lane             TEXT NOT NULL DEFAULT '', -- inside a queue; one lane so far
    priority         INTEGER NOT NULL,
    state            TEXT NOT NULL CHECK (state IN ('SCHEDULED', 'PENDING', 'PROCESSING')),
    due_at           INTEGER, -- what a SCHEDULED task waits for
    expires_at       INTEGER,
    worker           INTEGER REFERENCES worker (id), -- who holds a PROCESSING task
    cancel_requested INTEGER NOT NULL DEFAULT 0 CHECK (cancel_requested IN (0, 1)),
    suspect          INTEGER NOT NULL DEFAULT 0 CHECK (suspect IN (0, 1)), -- was in flight at a crash
    attempt          INTEGER NOT NULL DEFAULT 0, -- rises with every claim: the fence
    failures         INTEGER NOT NULL DEFAULT 0,
    crashes          INTEGER NOT NULL DEFAULT 0,
    started_at       INTEGER, -- of the latest attempt
    updated_at       INTEGER, -- when the state last changed
    CHECK ((state = 'PROCESSING') = (worker IS NOT NULL)),
    CHECK ((state = 'SCHEDULED') = (due_at IS NOT NULL)),
    CHECK (cancel_requested = 0 OR worker IS NOT NULL)
) STRICT;

CREATE INDEX live_order ON live (queue, lane, priority, task) WHERE state = 'PENDING';
CREATE INDEX live_due ON live (due_at, task) WHERE state = 'SCHEDULED';
CREATE INDEX live_expiry ON live (expires_at, task) WHERE expires_at IS NOT NULL AND worker IS NULL;
CREATE INDEX live_held ON live (worker, task) WHERE worker IS NOT NULL;

-- How a task ended. The key says that each ends at most once.
CREATE TABLE outcome (
    task            INTEGER PRIMARY KEY REFERENCES task (id) ON DELETE CASCADE,
    tenant          TEXT NOT NULL,
    status          TEXT NOT NULL CHECK (status IN ('COMPLETED', 'FAILED', 'CANCELLED', 'EXPIRED')),
    attempt         INTEGER NOT NULL,
    failures        INTEGER NOT NULL,
    crashes         INTEGER NOT NULL,
    worker          INTEGER REFERENCES worker (id), -- NULL when it ended while it waited
    attempt_outcome TEXT, -- how the attempt went that ended it
    started_at      INTEGER,
    ended_at        INTEGER NOT NULL,
    result          TEXT,
    details         TEXT,
    error_code      TEXT,
    error_message   TEXT,
    CHECK ((worker IS NULL) = (attempt_outcome IS NULL)),
    CHECK ((error_code IS NULL) = (error_message IS NULL))
) STRICT;

CREATE INDEX outcome_list ON outcome (tenant, status, task);

-- An attempt that did not end its task.
CREATE TABLE attempt (
    task          INTEGER NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    attempt       INTEGER NOT NULL,
    tenant        TEXT NOT NULL,
    worker        INTEGER NOT NULL REFERENCES worker (id),
    outcome       TEXT NOT NULL,
    started_at    INTEGER NOT NULL,
    ended_at      INTEGER NOT NULL,
    error_code    TEXT,
    error_message TEXT,
    PRIMARY KEY (task, attempt),
    CHECK ((error_code IS NULL) = (error_message IS NULL))
) STRICT, WITHOUT ROWID;

-- What a task last reported. The numbers are unsigned 64 bit, kept bit for bit.
CREATE TABLE progress (
    task       INTEGER PRIMARY KEY REFERENCES task (id) ON DELETE CASCADE,
    tenant     TEXT NOT NULL,
    attempt    INTEGER NOT NULL,
    current    INTEGER NOT NULL,
    total      INTEGER NOT NULL,
    message    TEXT,
    updated_at INTEGER NOT NULL
) STRICT;

-- Live output, so that a reader can begin late.
CREATE TABLE chunk (
    task    INTEGER NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    attempt INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    tenant  TEXT NOT NULL,
    text    TEXT NOT NULL,
    PRIMARY KEY (task, attempt, seq)
) STRICT;

-- How many tasks stand where, kept with every change: history is never counted.
CREATE TABLE tally (
    tenant TEXT NOT NULL,
    queue  TEXT NOT NULL,
    status TEXT NOT NULL,
    count  INTEGER NOT NULL CHECK (count >= 0),
    PRIMARY KEY (tenant, queue, status)
) STRICT, WITHOUT ROWID;

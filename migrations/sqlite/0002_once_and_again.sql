-- Submitting once, running ended tasks again, and suspects who wait apart.

ALTER TABLE task ADD COLUMN unique_key TEXT; -- what no other task of its kind may share

CREATE INDEX task_unique ON task (tenant, unique_key, id) WHERE unique_key IS NOT NULL;

-- Where `failures` and `crashes` stood when a person last asked for another run: budgets count from there.
-- Suspects wait in the lanes 'shared' and 'alone'; `suspect` is not read any more.
ALTER TABLE live ADD COLUMN forgiven_failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE live ADD COLUMN forgiven_crashes INTEGER NOT NULL DEFAULT 0;
-- The error of a task that was brought back, until it is claimed; of other waiting tasks, the last attempt has it.
ALTER TABLE live ADD COLUMN reopened INTEGER NOT NULL DEFAULT 0;
ALTER TABLE live ADD COLUMN error_code TEXT;
ALTER TABLE live ADD COLUMN error_message TEXT;
ALTER TABLE outcome ADD COLUMN forgiven_failures INTEGER NOT NULL DEFAULT 0;
ALTER TABLE outcome ADD COLUMN forgiven_crashes INTEGER NOT NULL DEFAULT 0;

-- The heaviest suspicion among all that it held when it died.
ALTER TABLE worker ADD COLUMN heaviest INTEGER NOT NULL DEFAULT 0;

-- What has waited longest for a person.
CREATE INDEX outcome_failed ON outcome (ended_at, task) WHERE status = 'FAILED';

-- What the first use of an idempotency key came to. The task may be gone; the key is remembered for a day all the same.
CREATE TABLE idempotency_key (
    tenant      TEXT NOT NULL,
    key         TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    task        INTEGER NOT NULL,
    created_at  INTEGER NOT NULL, -- of the task, and of the first use
    run_at      INTEGER, -- what the task waited for at first
    PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_key_age ON idempotency_key (created_at);

-- What workers say of themselves, and what they are told to do.

ALTER TABLE worker ADD COLUMN about TEXT; -- JSON, as told at its registration

CREATE TABLE worker_report (
    worker  INTEGER PRIMARY KEY REFERENCES worker (id),
    told_at INTEGER NOT NULL,
    report  TEXT NOT NULL -- JSON
) STRICT;

CREATE TABLE worker_command (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    worker      INTEGER NOT NULL REFERENCES worker (id),
    command     TEXT NOT NULL, -- such as `concurrency 5`
    created_at  INTEGER NOT NULL,
    answered_at INTEGER,
    done        INTEGER CHECK (done IN (0, 1)), -- whether the worker did as it was told …
    message     TEXT, -- … and in words
    CHECK ((answered_at IS NULL) = (done IS NULL) AND (answered_at IS NULL) = (message IS NULL))
) STRICT;

CREATE INDEX worker_command_open ON worker_command (worker, id) WHERE answered_at IS NULL;
CREATE INDEX worker_command_age ON worker_command (created_at);

-- What workers report every few seconds, apart from their leases, whose rows stay narrow.
CREATE TABLE worker_report (
    worker  bigint      NOT NULL,
    told_at timestamptz NOT NULL,
    report  text        NOT NULL,                       -- JSON
    PRIMARY KEY (worker)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500);

-- What workers are told to do: found by each with its reports, so that it works without Redis.
CREATE TABLE worker_command (
    id          bigint      NOT NULL GENERATED ALWAYS AS IDENTITY,
    worker      bigint      NOT NULL,
    created_at  timestamptz NOT NULL,
    answered_at timestamptz,
    command     text        COLLATE "C" NOT NULL,       -- such as `concurrency 5`
    done        boolean,                                -- whether the worker did as it was told …
    message     text,                                   -- … and in words
    PRIMARY KEY (id),
    CONSTRAINT worker_command_answer CHECK (
        (answered_at IS NULL) = (done IS NULL) AND (answered_at IS NULL) = (message IS NULL))
);
CREATE INDEX worker_command_open ON worker_command (worker, id) WHERE answered_at IS NULL;
CREATE INDEX worker_command_age ON worker_command (created_at);

-- Tasks that were submitted in SQL, inside somebody's own transaction: they appear when that one commits, and every
-- process of the runner looks for them. Checked and routed there, each moves among the tasks under the number that it
-- has here.
CREATE TABLE inbox (
    id           bigint      NOT NULL DEFAULT nextval('task_id'),
    submitted_at timestamptz NOT NULL DEFAULT now(),
    tenant       text        COLLATE "C" NOT NULL,
    task_type    text        COLLATE "C" NOT NULL,
    input        text        NOT NULL,
    options      text        NOT NULL,
    PRIMARY KEY (id),
    -- The rules of the domain's names. What breaks them could not be shown as a task, so it fails where it is written.
    CONSTRAINT inbox_tenant CHECK (tenant ~ '^[A-Za-z0-9_.-]{1,64}$'),
    CONSTRAINT inbox_task_type CHECK (task_type ~ '^[A-Za-z0-9_.-]{1,128}$'),
    CONSTRAINT inbox_input CHECK (octet_length(input) <= 1048576),
    CONSTRAINT inbox_options CHECK (octet_length(options) <= 65536)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

-- Submits a task with the caller's transaction: both are committed, or neither. Answers the task's number. `options` are
-- the fields of a submission over HTTP besides type and input.
CREATE FUNCTION submit_task(
    task_type text, input jsonb DEFAULT '{}', options jsonb DEFAULT '{}', tenant text DEFAULT 'default'
) RETURNS bigint LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
DECLARE
    task bigint;
BEGIN
    INSERT INTO inbox (tenant, task_type, input, options)
    VALUES (tenant, task_type, coalesce(input, 'null')::text, coalesce(options, '{}')::text)
    RETURNING id INTO task;
    -- However often in one transaction, it is delivered once, and when that has committed.
    PERFORM pg_notify('task_runner_inbox', current_schema());
    RETURN task;
END
$$;
COMMENT ON FUNCTION submit_task IS 'Submits a task to the Async AI Task Runner with the transaction that calls it';

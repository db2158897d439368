-- What a program of schema 0001 left in its file: a task in each state, and one worker that was running.
INSERT INTO worker (id, name, queues, concurrency, lease, state, registered_at, last_heartbeat)
VALUES (1, 'old@host', '[]', 10, 12000000, 'alive', 1700000000000000, 1700000000000000);

INSERT INTO task (id, tenant, type, queue, priority, input, metadata, max_attempts, time_limit, run_at, created_at)
VALUES (1, 'default', 'demo.echo', 'q', 5, '{"n":1}', NULL, 3, 60000000, NULL, 1700000000000000),
    (2, 'default', 'demo.echo', 'q', 5, '{"n":2}', NULL, 3, 60000000, 4000000000000000, 1700000000000000),
    (3, 'default', 'demo.echo', 'q', 5, '{"n":3}', NULL, 3, 60000000, NULL, 1700000000000000),
    (4, 'default', 'demo.echo', 'q', 5, '{"n":4}', '{"note":"kept"}', 3, 60000000, NULL, 1700000000000000),
    (5, 'default', 'demo.echo', 'q', 5, '{"n":5}', NULL, 1, 60000000, NULL, 1700000000000000),
    (6, 'default', 'demo.echo', 'q', 5, '{"n":6}', NULL, 3, 60000000, NULL, 1700000000000000);

INSERT INTO live (task, tenant, queue, priority, state, due_at, worker, suspect, attempt, failures, crashes, started_at, updated_at)
VALUES (1, 'default', 'q', 5, 'PENDING', NULL, NULL, 0, 0, 0, 0, NULL, NULL),
    (2, 'default', 'q', 5, 'SCHEDULED', 4000000000000000, NULL, 0, 0, 0, 0, NULL, NULL),
    (3, 'default', 'q', 5, 'PROCESSING', NULL, 1, 0, 1, 0, 0, 1700000001000000, 1700000001000000),
    -- A suspect, as 0001 knew them: it had crashed once, waited, and runs again.
    (6, 'default', 'q', 5, 'PENDING', NULL, NULL, 1, 1, 0, 1, 1700000001000000, 1700000002000000);

INSERT INTO attempt (task, attempt, tenant, worker, outcome, started_at, ended_at)
VALUES (6, 1, 'default', 1, 'CRASHED', 1700000001000000, 1700000002000000);

INSERT INTO outcome (task, tenant, status, attempt, failures, crashes, worker, attempt_outcome, started_at, ended_at, result,
    error_code, error_message)
VALUES (4, 'default', 'COMPLETED', 1, 0, 0, 1, 'COMPLETED', 1700000001000000, 1700000002000000, '{"n":4}', NULL, NULL),
    (5, 'default', 'FAILED', 1, 1, 0, 1, 'FAILED', 1700000001000000, 1700000002000000, NULL, 'busy', 'try later');

INSERT INTO tally (tenant, queue, status, count)
VALUES ('default', 'q', 'PENDING', 2), ('default', 'q', 'SCHEDULED', 1), ('default', 'q', 'PROCESSING', 1),
    ('default', 'q', 'COMPLETED', 1), ('default', 'q', 'FAILED', 1);

-- The hot statements of the first version, as it sends them: its replicas go on working while newer ones are rolled out.

-- name: submit
WITH submitted AS MATERIALIZED (
                SELECT nextval('task_id') AS id, coalesce($1, now()) AS created_at,
                    CASE WHEN s.start_at > coalesce($1, now()) THEN s.start_at
                         WHEN s.delay > interval '0' THEN coalesce($1, now()) + s.delay END AS run_at, s.*
                FROM (
                    SELECT * FROM unnest($2::text[], $3::text[], $4::text[], $5::smallint[], $6::text[], $7::text[],
                        $8::timestamptz[], $9::interval[], $10::timestamptz[], $11::integer[], $12::bigint[], $13::bigint[])
                    WITH ORDINALITY AS batch (tenant, task_type, queue, priority, input, metadata,
                        start_at, delay, expires_at, max_attempts, soft_time_limit, time_limit, place)
                    ORDER BY place
                ) s
            ), kept AS (
                INSERT INTO task (id, created_at, expires_at, soft_time_limit, time_limit, max_attempts, priority,
                    tenant, task_type, queue, input, metadata)
                SELECT id, created_at, expires_at, soft_time_limit, time_limit, max_attempts, priority,
                    tenant, task_type, queue, input, metadata
                FROM submitted
            ), begun AS (
                INSERT INTO live (id, tenant, queue, priority, ready, due_at, expires_at)
                SELECT id, tenant, queue, priority, run_at IS NULL, run_at, expires_at FROM submitted
            ), tallied AS (
                INSERT INTO tally_delta (tenant, queue, scheduled, pending)
                SELECT tenant, queue, count(run_at), count(*) - count(run_at) FROM submitted GROUP BY tenant, queue
            )
            SELECT id, created_at, run_at FROM submitted ORDER BY place

-- name: claim_ids
WITH me AS MATERIALIZED (
                SELECT id FROM worker WHERE id = $1 AND dead_at IS NULL AND retired_at IS NULL FOR KEY SHARE
            ), taken AS (
                UPDATE live SET worker = $1, attempt = attempt + 1,
                    started_at = coalesce($2, now()), changed_at = coalesce($2, now())
                WHERE id = ANY($3) AND ready AND worker IS NULL AND EXISTS (SELECT FROM me)
                RETURNING id, tenant, queue, priority, attempt, failures, crashes, started_at
            ), batch AS (
                INSERT INTO claim_batch (worker, ids) SELECT $1, array_agg(id) FROM taken HAVING count(*) > 0 RETURNING id
            ), tallied AS (
                INSERT INTO tally_delta (tenant, queue, pending, processing)
                SELECT tenant, queue, -count(*), count(*) FROM taken GROUP BY tenant, queue
            )
            SELECT (SELECT id FROM batch) AS batch, taken.*,
                t.task_type, t.input, t.max_attempts, t.soft_time_limit, t.time_limit, t.created_at
            FROM taken LEFT JOIN LATERAL (
                SELECT task_type, input, max_attempts, soft_time_limit, time_limit, created_at
                FROM task WHERE task.id = taken.id LIMIT 1
            ) t ON true

-- name: claim_next
WITH me AS MATERIALIZED (
                SELECT id FROM worker WHERE id = $1 AND dead_at IS NULL AND retired_at IS NULL FOR KEY SHARE
            ), chosen AS MATERIALIZED (
        SELECT id FROM (
            SELECT c.id, c.priority, q.place,
                row_number() OVER (PARTITION BY q.place, c.priority ORDER BY c.id) AS turn
            FROM unnest($3::text[], $4::bigint[]) WITH ORDINALITY AS q (queue, most, place)
            CROSS JOIN LATERAL (
                SELECT id, priority FROM live
                WHERE live.queue = q.queue AND live.lane = 0 AND live.ready AND live.worker IS NULL
                ORDER BY live.priority, live.id LIMIT q.most FOR UPDATE SKIP LOCKED
            ) c
            WHERE EXISTS (SELECT FROM me)
        ) candidate
        ORDER BY priority, turn, place LIMIT $5
    ), taken AS (
                UPDATE live SET worker = $1, attempt = attempt + 1,
                    started_at = coalesce($2, now()), changed_at = coalesce($2, now())
                WHERE id = ANY(ARRAY(SELECT id FROM chosen)) AND ready AND worker IS NULL AND EXISTS (SELECT FROM me)
                RETURNING id, tenant, queue, priority, attempt, failures, crashes, started_at
            ), batch AS (
                INSERT INTO claim_batch (worker, ids) SELECT $1, array_agg(id) FROM taken HAVING count(*) > 0 RETURNING id
            ), tallied AS (
                INSERT INTO tally_delta (tenant, queue, pending, processing)
                SELECT tenant, queue, -count(*), count(*) FROM taken GROUP BY tenant, queue
            )
            SELECT (SELECT id FROM batch) AS batch, taken.*,
                t.task_type, t.input, t.max_attempts, t.soft_time_limit, t.time_limit, t.created_at
            FROM taken LEFT JOIN LATERAL (
                SELECT task_type, input, max_attempts, soft_time_limit, time_limit, created_at
                FROM task WHERE task.id = taken.id LIMIT 1
            ) t ON true

-- name: finish
WITH held AS MATERIALIZED (
    SELECT s.*, l.tenant, l.queue, l.started_at
    FROM unnest($4::bigint[], $5::integer[], $6::text[], $7::text[], $8::integer[], $9::integer[],
        $10::text[], $11::text[], $12::text[])
        AS s (task, attempt, status, attempt_outcome, failures, crashes, result, details, error)
    CROSS JOIN LATERAL (
        SELECT tenant, queue, started_at FROM live
        WHERE live.id = s.task AND live.attempt = s.attempt AND live.worker = $1 FOR UPDATE
    ) l
), ended AS (
    INSERT INTO outcome (task, worker, started_at, ended_at, attempt, failures, crashes, status, attempt_outcome,
        result, details, error)
    SELECT task, $1, started_at, coalesce($2, now()), attempt, failures, crashes, status, attempt_outcome,
        result, details, error
    FROM held
), gone AS (
    DELETE FROM live WHERE id = ANY(ARRAY(SELECT task FROM held))
), tallied AS (
    INSERT INTO tally_delta (tenant, queue, processing, completed, failed, cancelled, expired)
    SELECT tenant, queue, -count(*), count(*) FILTER (WHERE status = 'COMPLETED'),
        count(*) FILTER (WHERE status = 'FAILED'), count(*) FILTER (WHERE status = 'CANCELLED'),
        count(*) FILTER (WHERE status = 'EXPIRED')
    FROM held GROUP BY tenant, queue
), done AS (
    DELETE FROM claim_batch WHERE id = ANY($3)
)
SELECT task, attempt, false AS refused FROM held

-- name: wait
WITH held AS MATERIALIZED (
    SELECT s.*, l.tenant, l.queue, l.started_at, l.cancel_requested AND NOT s.knew_of_cancel AS refused
    FROM unnest($4::bigint[], $5::integer[], $6::interval[], $7::integer[], $8::integer[], $9::boolean[],
        $10::text[], $11::text[], $12::boolean[])
        AS s (task, attempt, after, failures, crashes, suspect, outcome, error, knew_of_cancel)
    CROSS JOIN LATERAL (
        SELECT tenant, queue, started_at, cancel_requested FROM live
        WHERE live.id = s.task AND live.attempt = s.attempt AND live.worker = $1 FOR UPDATE
    ) l
), back AS (
    UPDATE live SET worker = NULL, ready = held.after = interval '0',
        due_at = CASE WHEN held.after > interval '0' THEN coalesce($2, now()) + held.after END,
        failures = held.failures, crashes = held.crashes, suspect = held.suspect, cancel_requested = false,
        error = held.error, changed_at = coalesce($2, now())
    FROM held WHERE live.id = held.task AND NOT held.refused
), kept AS (
    INSERT INTO attempt (task, worker, started_at, ended_at, attempt, outcome, error)
    SELECT task, $1, started_at, coalesce($2, now()), attempt, outcome, error FROM held WHERE NOT refused
), tallied AS (
    INSERT INTO tally_delta (tenant, queue, processing, pending, scheduled)
    SELECT tenant, queue, -count(*), count(*) FILTER (WHERE after = interval '0'),
        count(*) FILTER (WHERE after > interval '0')
    FROM held WHERE NOT refused GROUP BY tenant, queue
), done AS (
    DELETE FROM claim_batch WHERE id = ANY($3)
)
SELECT task, attempt, refused FROM held

-- name: register
INSERT INTO worker (name, queues, concurrency, lease, started_at, heartbeat_at)
             VALUES ($1, $2, $3, $4, coalesce($5, now()), coalesce($5, now())) RETURNING id

-- name: heartbeat
WITH done AS (DELETE FROM claim_batch WHERE id = ANY($2))
             UPDATE worker SET heartbeat_at = coalesce($3, now())
             WHERE id = $1 AND dead_at IS NULL AND retired_at IS NULL

-- name: bury
WITH silent AS MATERIALIZED (
                SELECT id FROM worker
                WHERE id = $1 AND heartbeat_at = $2 AND dead_at IS NULL AND retired_at IS NULL FOR UPDATE
             )
             UPDATE worker SET dead_at = coalesce($3, now()) WHERE id = (SELECT id FROM silent)

-- name: gone
SELECT id FROM worker
             WHERE (dead_at IS NOT NULL OR retired_at IS NOT NULL) AND released_at IS NULL ORDER BY id LIMIT 1000

-- name: orphans
SELECT l.*, w.retired_at IS NOT NULL AS worker_retired
             FROM unnest($1::bigint[]) AS gone (worker)
             JOIN worker w ON w.id = gone.worker
             JOIN claim_batch b ON b.worker = gone.worker
             CROSS JOIN LATERAL unnest(b.ids) AS taken (id)
             CROSS JOIN LATERAL (
                SELECT id, worker, attempt, failures, crashes, cancel_requested, queue, priority
                FROM live WHERE live.id = taken.id AND live.worker = gone.worker LIMIT 1
             ) l
             LIMIT $2

-- name: released
WITH released AS (
                    UPDATE worker SET released_at = coalesce($2, now())
                    WHERE id = ANY($1) AND released_at IS NULL AND NOT EXISTS (
                        SELECT FROM claim_batch b CROSS JOIN LATERAL unnest(b.ids) AS taken (id)
                        CROSS JOIN LATERAL (
                            SELECT FROM live WHERE live.id = taken.id AND live.worker = worker.id LIMIT 1
                        ) l WHERE b.worker = worker.id
                    ) RETURNING id
                 )
                 DELETE FROM claim_batch WHERE worker = ANY(ARRAY(SELECT id FROM released))

-- name: promote
WITH due AS MATERIALIZED (
    SELECT id FROM live WHERE NOT ready AND due_at <= coalesce($1, now())
    ORDER BY due_at LIMIT $2 FOR UPDATE SKIP LOCKED
), promoted AS (
    UPDATE live SET ready = true, due_at = NULL, changed_at = coalesce($1, now())
    WHERE id = ANY(ARRAY(SELECT id FROM due)) RETURNING id, tenant, queue, priority
), tallied AS (
    INSERT INTO tally_delta (tenant, queue, scheduled, pending)
    SELECT tenant, queue, -count(*), count(*) FROM promoted GROUP BY tenant, queue
)
SELECT id, queue, priority FROM promoted ORDER BY id

-- name: end_waiting
WITH gone AS (
            DELETE FROM live WHERE id = ANY($1) AND worker IS NULL
            RETURNING id, tenant, queue, ready, attempt, failures, crashes, started_at
        ), ended AS (
            INSERT INTO outcome (task, started_at, ended_at, attempt, failures, crashes, status, error)
            SELECT id, started_at, coalesce($4, now()), attempt, failures, crashes, $2, $3 FROM gone
        ), tallied AS (
            INSERT INTO tally_delta (tenant, queue, scheduled, pending, cancelled, expired)
            SELECT tenant, queue, -count(*) FILTER (WHERE NOT ready), -count(*) FILTER (WHERE ready),
                count(*) FILTER (WHERE $2 = 'CANCELLED'), count(*) FILTER (WHERE $2 = 'EXPIRED')
            FROM gone GROUP BY tenant, queue
        )
        SELECT id FROM gone ORDER BY id

-- name: cancel_look
SELECT l.id, l.ready, l.worker IS NOT NULL AS running, l.cancel_requested, l.attempt, l.failures, l.crashes
             FROM unnest($2::bigint[]) AS asked (id)
             CROSS JOIN LATERAL (SELECT * FROM live WHERE live.id = asked.id AND live.tenant = $1 FOR UPDATE) l

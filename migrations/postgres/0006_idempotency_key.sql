-- What the first use of an idempotency key came to. The task may be gone; the key is remembered for a day all the same.
CREATE TABLE idempotency_key (
    task        bigint      NOT NULL,
    created_at  timestamptz NOT NULL,                       -- of the task, and of the first use
    run_at      timestamptz,                                -- what the task waited for at first
    tenant      text        COLLATE "C" NOT NULL,
    key         text        COLLATE "C" NOT NULL,
    fingerprint bytea       NOT NULL,
    PRIMARY KEY (tenant, key)
) WITH (autovacuum_vacuum_scale_factor = 0.05);
CREATE INDEX idempotency_key_created_at ON idempotency_key (created_at);

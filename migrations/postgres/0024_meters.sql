-- How much of each provider's quota has been used, as JSON: read and written under the row's lock, by one call at a time.
CREATE TABLE meter (
    used_at timestamptz NOT NULL,
    name    text        COLLATE "C" PRIMARY KEY,
    state   text        NOT NULL
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

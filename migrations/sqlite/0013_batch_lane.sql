-- Requests that wait for a provider's Batch API, and these batches.

CREATE TABLE lane_request (
    task      INTEGER PRIMARY KEY,
    batch     INTEGER,          -- NULL: it waits for one
    parked_at INTEGER NOT NULL,
    provider  TEXT    NOT NULL,
    model     TEXT    NOT NULL,
    body      TEXT    NOT NULL,
    answer    TEXT
) STRICT;
CREATE INDEX lane_request_waiting ON lane_request (provider, parked_at, task) WHERE batch IS NULL;
CREATE INDEX lane_request_batch ON lane_request (batch, task) WHERE batch IS NOT NULL;

CREATE TABLE provider_batch (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    provider  TEXT    NOT NULL,
    made_at   INTEGER NOT NULL,
    looked_at INTEGER,
    file      TEXT,             -- what the provider calls it
    remote    TEXT
) STRICT;

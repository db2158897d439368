-- Requests that wait for a provider's Batch API, and these batches.

CREATE TABLE lane_request (
    task      bigint      PRIMARY KEY,
    batch     bigint,                                   -- NULL: it waits for one
    parked_at timestamptz NOT NULL,
    provider  text        COLLATE "C" NOT NULL,
    model     text        COLLATE "C" NOT NULL,
    body      text        NOT NULL,
    answer    text
);
CREATE INDEX lane_request_waiting ON lane_request (provider, parked_at, task) WHERE batch IS NULL;
CREATE INDEX lane_request_batch ON lane_request (batch, task) WHERE batch IS NOT NULL;

CREATE TABLE provider_batch (
    id        bigint      PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    made_at   timestamptz NOT NULL,
    looked_at timestamptz,
    provider  text        COLLATE "C" NOT NULL,
    file      text,                                     -- what the provider calls it
    remote    text
);

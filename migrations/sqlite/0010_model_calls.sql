-- What attempts asked of models, and what that came to.

-- Of attempts that made calls only: what the calls were, as JSON. Written with the attempt's settlement.
CREATE TABLE model_call (
    task    INTEGER NOT NULL REFERENCES task (id) ON DELETE CASCADE,
    attempt INTEGER NOT NULL,
    tenant  TEXT NOT NULL,
    calls   TEXT NOT NULL,
    PRIMARY KEY (task, attempt)
) STRICT, WITHOUT ROWID;

-- The sums of a day, in UTC. They stay when tasks are deleted. Money is in millionths.
CREATE TABLE usage_day (
    tenant          TEXT NOT NULL,
    day             TEXT NOT NULL, -- 2026-01-31
    provider        TEXT NOT NULL,
    model           TEXT NOT NULL,
    calls           INTEGER NOT NULL,
    estimated_calls INTEGER NOT NULL, -- tokens by our estimate
    unpriced_calls  INTEGER NOT NULL, -- of no price: not in cost_micros
    input_tokens    INTEGER NOT NULL,
    output_tokens   INTEGER NOT NULL,
    cost_micros     INTEGER NOT NULL,
    PRIMARY KEY (tenant, day, provider, model)
) STRICT, WITHOUT ROWID;

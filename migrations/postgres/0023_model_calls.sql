-- What attempts asked of models, and what that came to.

-- Of attempts that made calls only: what the calls were, as JSON. Written with the attempt's settlement.
CREATE TABLE model_call (
    task    bigint  NOT NULL,
    attempt integer NOT NULL,
    calls   text    NOT NULL,
    PRIMARY KEY (task, attempt)
);

-- The sums of a day, in UTC. They stay when tasks are deleted. Money is in millionths.
CREATE TABLE usage_day (
    day             date   NOT NULL,
    calls           bigint NOT NULL,
    estimated_calls bigint NOT NULL,                    -- tokens by our estimate
    unpriced_calls  bigint NOT NULL,                    -- of no price: not in cost_micros
    input_tokens    bigint NOT NULL,
    output_tokens   bigint NOT NULL,
    cost_micros     bigint NOT NULL,
    tenant          text   COLLATE "C" NOT NULL,
    provider        text   COLLATE "C" NOT NULL,
    model           text   COLLATE "C" NOT NULL,
    PRIMARY KEY (tenant, day, provider, model)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- Who waits for whom, for as long as it waits. `met`: the needed one has ended, and that was followed up.
CREATE TABLE dependency (
    needs bigint  NOT NULL,
    task  bigint  NOT NULL,
    met   boolean NOT NULL DEFAULT false,
    PRIMARY KEY (needs, task)
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX dependency_task ON dependency (task);

-- Ends of needed tasks that nobody has followed up yet: written with the end itself.
CREATE TABLE ended_need (
    id   bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    task bigint NOT NULL,
    PRIMARY KEY (id)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000, autovacuum_vacuum_cost_delay = 0);

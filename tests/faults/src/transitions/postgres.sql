-- Every change of a task's state, written in the transaction that makes it.
CREATE TABLE faults_transition (
    seq         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    tx          bigint      NOT NULL DEFAULT txid_current(),
    kind        text        NOT NULL,
    task        bigint,
    was_state   text,
    was_worker  bigint,
    was_attempt integer,
    state       text,
    worker      bigint,
    attempt     integer,
    held        bigint,     -- of a worker that is gone: what it held at that moment
    lease_left  bigint      -- of a worker that was declared dead: microseconds that its lease had still to run
);

CREATE FUNCTION faults_state(ready boolean, worker bigint) RETURNS text LANGUAGE sql IMMUTABLE AS
$$ SELECT CASE WHEN NOT ready THEN 'SCHEDULED' WHEN worker IS NULL THEN 'PENDING' ELSE 'PROCESSING' END $$;

CREATE FUNCTION faults_live() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO faults_transition (kind, task, state, worker, attempt)
        VALUES ('live', NEW.id, faults_state(NEW.ready, NEW.worker), NEW.worker, NEW.attempt);
    ELSIF TG_OP = 'DELETE' THEN
        INSERT INTO faults_transition (kind, task, was_state, was_worker, was_attempt)
        VALUES ('live', OLD.id, faults_state(OLD.ready, OLD.worker), OLD.worker, OLD.attempt);
    ELSE
        INSERT INTO faults_transition (kind, task, was_state, was_worker, was_attempt, state, worker, attempt)
        VALUES ('live', NEW.id, faults_state(OLD.ready, OLD.worker), OLD.worker, OLD.attempt,
            faults_state(NEW.ready, NEW.worker), NEW.worker, NEW.attempt);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER faults_live_made AFTER INSERT OR DELETE ON live FOR EACH ROW EXECUTE FUNCTION faults_live();
CREATE TRIGGER faults_live_changed AFTER UPDATE ON live FOR EACH ROW
    WHEN ((OLD.ready, OLD.worker, OLD.attempt) IS DISTINCT FROM (NEW.ready, NEW.worker, NEW.attempt))
    EXECUTE FUNCTION faults_live();

CREATE FUNCTION faults_outcome() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO faults_transition (kind, task, state, worker, attempt)
        VALUES (TG_ARGV[0], NEW.task, to_jsonb(NEW) ->> TG_ARGV[1], NEW.worker, NEW.attempt);
    ELSE
        INSERT INTO faults_transition (kind, task, was_state, was_worker, was_attempt)
        VALUES (TG_ARGV[0], OLD.task, to_jsonb(OLD) ->> TG_ARGV[1], OLD.worker, OLD.attempt);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER faults_outcome AFTER INSERT OR UPDATE OR DELETE ON outcome FOR EACH ROW
    EXECUTE FUNCTION faults_outcome('outcome', 'status');
CREATE TRIGGER faults_attempt AFTER INSERT OR UPDATE OR DELETE ON attempt FOR EACH ROW
    EXECUTE FUNCTION faults_outcome('attempt', 'outcome');

CREATE FUNCTION faults_worker() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO faults_transition (kind, state, worker, held, lease_left)
    SELECT 'worker', CASE WHEN NEW.dead_at IS NULL THEN 'RETIRED' ELSE 'DEAD' END, NEW.id,
        (SELECT count(*) FROM live WHERE live.worker = NEW.id),
        CASE WHEN NEW.dead_at IS NOT NULL
             THEN extract(epoch FROM OLD.heartbeat_at + OLD.lease - clock_timestamp()) * 1000000 END;
    RETURN NULL;
END $$;
CREATE TRIGGER faults_worker AFTER UPDATE ON worker FOR EACH ROW
    WHEN ((OLD.dead_at IS NULL AND OLD.retired_at IS NULL) AND (NEW.dead_at IS NOT NULL OR NEW.retired_at IS NOT NULL))
    EXECUTE FUNCTION faults_worker();

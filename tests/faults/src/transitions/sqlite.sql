-- Every change of a task's state, written in the transaction that makes it.
CREATE TABLE faults_transition (
    seq         INTEGER PRIMARY KEY AUTOINCREMENT,
    at          INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000000 AS INTEGER)),
    kind        TEXT    NOT NULL,
    task        INTEGER,
    was_state   TEXT,
    was_worker  INTEGER,
    was_attempt INTEGER,
    state       TEXT,
    worker      INTEGER,
    attempt     INTEGER,
    held        INTEGER, -- of a worker that is gone: what it held at that moment
    lease_left  INTEGER  -- stays empty: the lock on the file says that a worker of an earlier process is gone
) STRICT;

CREATE TRIGGER faults_live_made AFTER INSERT ON live BEGIN
    INSERT INTO faults_transition (kind, task, state, worker, attempt)
    VALUES ('live', NEW.task, NEW.state, NEW.worker, NEW.attempt);
END;
CREATE TRIGGER faults_live_gone AFTER DELETE ON live BEGIN
    INSERT INTO faults_transition (kind, task, was_state, was_worker, was_attempt)
    VALUES ('live', OLD.task, OLD.state, OLD.worker, OLD.attempt);
END;
CREATE TRIGGER faults_live_changed AFTER UPDATE ON live
WHEN OLD.state IS NOT NEW.state OR OLD.worker IS NOT NEW.worker OR OLD.attempt IS NOT NEW.attempt BEGIN
    INSERT INTO faults_transition (kind, task, was_state, was_worker, was_attempt, state, worker, attempt)
    VALUES ('live', NEW.task, OLD.state, OLD.worker, OLD.attempt, NEW.state, NEW.worker, NEW.attempt);
END;
CREATE TRIGGER faults_outcome_made AFTER INSERT ON outcome BEGIN
    INSERT INTO faults_transition (kind, task, state, worker, attempt)
    VALUES ('outcome', NEW.task, NEW.status, NEW.worker, NEW.attempt);
END;
CREATE TRIGGER faults_outcome_changed AFTER UPDATE ON outcome BEGIN
    INSERT INTO faults_transition (kind, task, was_state, was_worker, was_attempt)
    VALUES ('outcome', OLD.task, OLD.status, OLD.worker, OLD.attempt);
END;
CREATE TRIGGER faults_outcome_gone AFTER DELETE ON outcome BEGIN
    INSERT INTO faults_transition (kind, task, was_state, was_worker, was_attempt)
    VALUES ('outcome', OLD.task, OLD.status, OLD.worker, OLD.attempt);
END;
CREATE TRIGGER faults_attempt_made AFTER INSERT ON attempt BEGIN
    INSERT INTO faults_transition (kind, task, state, worker, attempt)
    VALUES ('attempt', NEW.task, NEW.outcome, NEW.worker, NEW.attempt);
END;
CREATE TRIGGER faults_attempt_gone AFTER DELETE ON attempt BEGIN
    INSERT INTO faults_transition (kind, task, was_state, was_worker, was_attempt)
    VALUES ('attempt', OLD.task, OLD.outcome, OLD.worker, OLD.attempt);
END;
CREATE TRIGGER faults_worker AFTER UPDATE ON worker WHEN OLD.state = 'alive' AND NEW.state <> 'alive' BEGIN
    INSERT INTO faults_transition (kind, state, worker, held)
    VALUES ('worker', upper(NEW.state), NEW.id, (SELECT count(*) FROM live WHERE live.worker = NEW.id));
END;

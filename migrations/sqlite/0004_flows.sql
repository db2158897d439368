-- Tasks that wait for others.

ALTER TABLE task ADD COLUMN batch INTEGER; -- the batch that it is an item of
ALTER TABLE task ADD COLUMN needs TEXT; -- what it waits for and what waits for it, as JSON

CREATE INDEX task_flow ON task (id) WHERE needs IS NOT NULL;
CREATE INDEX task_batch ON task (batch, id) WHERE batch IS NOT NULL;

-- `awaited`: somebody waits for the end of this task. `waits_for`: how many others it waits for itself; such a row is
-- SCHEDULED, with a `due_at` at the end of the calendar.
ALTER TABLE live ADD COLUMN awaited INTEGER;
ALTER TABLE live ADD COLUMN waits_for INTEGER;

-- Who waits for whom, for as long as it waits. `met`: the needed one has ended, and that was followed up.
CREATE TABLE dependency (
    needs INTEGER NOT NULL,
    task  INTEGER NOT NULL,
    met   INTEGER NOT NULL DEFAULT 0 CHECK (met IN (0, 1)),
    PRIMARY KEY (needs, task)
) STRICT, WITHOUT ROWID;

CREATE INDEX dependency_task ON dependency (task, needs);

-- Ends of needed tasks that nobody has followed up yet.
CREATE TABLE ended_need (
    id   INTEGER PRIMARY KEY,
    task INTEGER NOT NULL
) STRICT;

-- Whatever way a task ends, its row in `live` goes.
CREATE TRIGGER live_awaited_end AFTER DELETE ON live WHEN OLD.awaited IS NOT NULL BEGIN
    INSERT INTO ended_need (task) VALUES (OLD.task);
END;
CREATE TRIGGER live_stops_waiting AFTER DELETE ON live WHEN OLD.waits_for IS NOT NULL BEGIN
    DELETE FROM dependency WHERE task = OLD.task;
END;

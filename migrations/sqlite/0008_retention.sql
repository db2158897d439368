-- Which ended tasks are due to be removed, without an index on the history: a walk goes through the tasks by id, each once,
-- when it is old enough to be due, and notes here what it has to look at again. So do tasks with a retention of their own,
-- and those that are run again after the walk has passed them.
CREATE TABLE retention_look (
    task    INTEGER PRIMARY KEY REFERENCES task (id) ON DELETE CASCADE,
    look_at INTEGER NOT NULL
) STRICT;

CREATE INDEX retention_look_due ON retention_look (look_at, task);

-- How far the walk has come, by which rules; it begins anew where they have changed.
CREATE TABLE retention_walk (
    one       INTEGER PRIMARY KEY CHECK (one = 1),
    walked_to INTEGER NOT NULL,
    rules     TEXT NOT NULL
) STRICT;

INSERT INTO retention_walk (one, walked_to, rules) VALUES (1, 0, '');

-- How much of each provider's quota has been used, as JSON.
CREATE TABLE meter (
    name    TEXT    NOT NULL PRIMARY KEY,
    used_at INTEGER NOT NULL,
    state   TEXT    NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX meter_used ON meter (used_at);

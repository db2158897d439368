-- As in `live`.
ALTER TABLE outcome
    ADD COLUMN forgiven_failures integer,
    ADD COLUMN forgiven_crashes  integer;

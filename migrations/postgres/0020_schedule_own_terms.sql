-- As in `task`.
ALTER TABLE schedule
    ADD COLUMN retry    text,
    ADD COLUMN keep_for bigint;

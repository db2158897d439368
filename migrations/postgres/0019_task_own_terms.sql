-- What a submission may say instead of its type, and nearly none does: NULL takes no room.
ALTER TABLE task
    ADD COLUMN retry    text,                               -- a retry policy, as JSON
    ADD COLUMN keep_for bigint;                             -- after its end, microseconds

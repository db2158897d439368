-- Tasks that wait for others. As from 0002 on, only additions; NULL is what nearly every row has, and takes no room.

-- `awaited`: somebody waits for the end of this task. `waits_for`: how many others it waits for itself; such a row is
-- SCHEDULED, with a `due_at` at the end of the calendar.
ALTER TABLE live
    ADD COLUMN awaited   boolean,
    ADD COLUMN waits_for integer;

-- The new order takes the place of the old one. Programs from before this look for those that wait without an index while
-- they run beside newer ones.
DROP INDEX live_waiting;
ALTER INDEX live_in_line RENAME TO live_waiting;

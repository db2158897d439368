-- The heaviest suspicion (0, 1, 2) among what a worker held when it died. NULL: it lives, or a program of 0001 buried it.
ALTER TABLE worker ADD COLUMN heaviest smallint;

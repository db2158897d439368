-- Running ended tasks again, unique tasks, and suspects who wait apart.
--
-- From here to 0009 there are only additions: programs that know no more than 0001 go on working beside newer ones.
-- What they do not write has a default or may be NULL. One table at a time, so that the migration never waits in a
-- circle with programs that run; the indexes are built beside them.

-- Where `failures` and `crashes` stood when a person last asked for another run: budgets count from there.
-- NULL stands for zero: nearly every row has it, and a NULL takes no room in rows that every claim writes anew.
--
-- Suspects wait in lanes of their own: -1 after a crash that was charged to many, -2 after one charged to a few.
-- `suspect` is written by programs of 0001 only, and read by none.
ALTER TABLE live
    ADD COLUMN forgiven_failures integer,
    ADD COLUMN forgiven_crashes  integer,
    ADD COLUMN unique_key        text COLLATE "C";          -- as in `task`

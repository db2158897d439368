-- How far a schedule spreads the starts of its tasks (NULL: not at all), and whether it comes from the configuration.
ALTER TABLE schedule ADD COLUMN jitter_ms INTEGER;
ALTER TABLE schedule ADD COLUMN configured INTEGER;

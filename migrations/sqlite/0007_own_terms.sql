-- What a submission may say instead of its type: when it is tried again, and how long it is kept after its end.
ALTER TABLE task ADD COLUMN retry TEXT; -- a retry policy, as JSON
ALTER TABLE task ADD COLUMN keep_for INTEGER; -- microseconds
ALTER TABLE schedule ADD COLUMN retry TEXT;
ALTER TABLE schedule ADD COLUMN keep_for INTEGER;

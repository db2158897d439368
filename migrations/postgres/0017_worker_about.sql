-- What a worker says of itself when it registers: JSON. NULL: nothing.
ALTER TABLE worker ADD COLUMN about text;

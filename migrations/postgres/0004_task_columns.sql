-- What no other task of the tenant may share, while the one or the other stands where its submission said.
ALTER TABLE task ADD COLUMN unique_key text COLLATE "C";

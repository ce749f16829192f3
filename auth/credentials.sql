-- password_of --
-- What an account's password is checked against, and what it must not be.
SELECT password_hash, email, name, data_key FROM accounts WHERE id = $1 AND deleted_at IS NULL;

-- password_change --
-- Another password, if it is still the one that was found right; no row back means that it is not.
UPDATE accounts SET password_hash = $3, updated_at = now()
 WHERE id = $1 AND password_hash = $2 AND deleted_at IS NULL
RETURNING id;

-- reset_find --
-- Whether a token would be taken now.
SELECT EXISTS (SELECT FROM password_resets WHERE token_hash = $1 AND expires_at > now());

-- reset_use --
-- The token is used; no row back means that it is wrong, used or too old.
DELETE FROM password_resets WHERE token_hash = $1 AND expires_at > now() RETURNING account;

-- password_set --
-- A password for whoever was sent a letter; reading it showed that the address is theirs.
UPDATE accounts SET password_hash = $2, verified_at = coalesce(verified_at, now()), updated_at = now()
 WHERE id = $1 AND deleted_at IS NULL
RETURNING id;

-- resets_drop --
-- Links sent before the password was changed open nothing.
DELETE FROM password_resets WHERE account = $1;

-- resets_forget --
-- Drop what ran out; $1 at most.
DELETE FROM password_resets
 WHERE token_hash IN (SELECT token_hash FROM password_resets WHERE expires_at < now() LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING account;

-- account_delete --
-- The row stays for the record's sake, with nothing that tells who it was: its key is gone too. No row back: done before.
UPDATE accounts
   SET deleted_at = now(), updated_at = now(), role = 'customer', email = NULL, email_hash = NULL, name = NULL,
       phone = NULL, password_hash = NULL, data_key = NULL
 WHERE id = $1 AND deleted_at IS NULL
RETURNING id;

-- addresses_drop --
-- Where the person lived.
DELETE FROM addresses WHERE account = $1;

-- sessions_anonymise --
-- What the person's devices were called, and where they were.
UPDATE sessions SET device = NULL, address = NULL WHERE account = $1;

-- resets_drop --
-- Links that were sent.
DELETE FROM password_resets WHERE account = $1;

-- letters_drop --
-- Letters that were still to be sent.
UPDATE outbox SET ended_at = now(), outcome = 'vanished', recipient = NULL, params = NULL
 WHERE account = $1 AND ended_at IS NULL;

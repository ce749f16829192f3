-- account_by_email --
-- The living account of an address, by any of the hashes it may be kept under.
SELECT id, role, password_hash, data_key, email_hash, verified_at IS NOT NULL AS is_verified
  FROM accounts
 WHERE email_hash = ANY ($1::bytea[]) AND deleted_at IS NULL;

-- account_show --
-- What an account's owner may read of it.
SELECT id, role, email, name, phone, data_key, language, verified_at IS NOT NULL AS is_verified, created_at
  FROM accounts
 WHERE id = $1 AND deleted_at IS NULL;

-- accounts_page --
-- Living accounts, newest first, after the account $1; only the one found by these hashes, where some are named.
SELECT id, role, email, name, phone, data_key, language, verified_at IS NOT NULL AS is_verified, created_at
  FROM accounts
 WHERE deleted_at IS NULL
   AND ($1::text IS NULL OR (created_at, id) < (SELECT created_at, id FROM accounts WHERE id = $1))
   AND ($2::bytea[] IS NULL OR email_hash = ANY ($2))
 ORDER BY created_at DESC, id DESC
 LIMIT $3;

-- account_insert --
-- A new verified account; no row back means that the address has one.
INSERT INTO accounts (id, role, email, email_hash, name, password_hash, data_key, verified_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, now())
ON CONFLICT (email_hash) DO NOTHING
RETURNING id;

-- account_change --
-- What its owner changed; null leaves a column as it is. No row back means that it was deleted, or has another key now.
UPDATE accounts
   SET name = coalesce($3, name), phone = coalesce($4, phone), language = coalesce($5, language), updated_at = now()
 WHERE id = $1 AND data_key IS NOT DISTINCT FROM $2 AND deleted_at IS NULL
RETURNING id;

-- account_data_key --
-- What an account's personal data is sealed under.
SELECT data_key FROM accounts WHERE id = $1 AND deleted_at IS NULL;

-- password_renew --
-- A stronger hash of the same password, unless it was changed meanwhile.
UPDATE accounts SET password_hash = $3, updated_at = now() WHERE id = $1 AND password_hash = $2 RETURNING id;

-- account_restore --
-- Give an account the role and password it is meant to have.
UPDATE accounts SET role = $2, password_hash = $3, verified_at = coalesce(verified_at, now()), updated_at = now()
 WHERE id = $1;

-- account_set_role --
-- Another role; no row back means that it has this one already.
UPDATE accounts SET role = $2, updated_at = now() WHERE id = $1 AND role <> $2 RETURNING id;

-- account_reseal_show --
-- What is kept under our secrets, for one account.
SELECT id, email, email_hash, name, phone, data_key FROM accounts WHERE id = $1 AND deleted_at IS NULL FOR UPDATE;

-- account_reseal --
-- The same under newer ones.
UPDATE accounts SET email_hash = $2, data_key = $3, email = $4, name = $5, phone = $6 WHERE id = $1;

-- accounts_to_reseal --
-- Accounts whose personal data is under another secret than the one with this id, after $2 in the order of ids.
SELECT id FROM accounts
 WHERE deleted_at IS NULL AND email IS NOT NULL AND id > $2
   AND (data_key IS NULL OR substring(data_key FROM 2 FOR 4) <> $1)
 ORDER BY id LIMIT $3;

-- load_accounts_ensure --
-- Verified accounts without address or password, for load; existing ones get the role asked for.
INSERT INTO accounts (id, role, verified_at)
SELECT n.id, $2, now() FROM unnest($1::text[]) AS n (id)
ON CONFLICT (id) DO UPDATE SET role = excluded.role, updated_at = now() WHERE accounts.role <> excluded.role;

-- account_by_email --
-- The living account of an address, by any of the hashes it may be kept under.
SELECT id, role, password_hash, verified_at IS NOT NULL AS is_verified
  FROM accounts
 WHERE email_hash = ANY ($1::bytea[]) AND deleted_at IS NULL;

-- account_show --
-- What an account's owner may read of it.
SELECT id, role, email, name, phone, verified_at IS NOT NULL AS is_verified, created_at
  FROM accounts
 WHERE id = $1 AND deleted_at IS NULL;

-- account_insert --
-- A new account, verified or not; no row back means that the address has one.
INSERT INTO accounts (id, role, email, email_hash, name, password_hash, verified_at)
VALUES ($1, $2, $3, $4, $5, $6, CASE WHEN $7 THEN now() END)
ON CONFLICT (email_hash) DO NOTHING
RETURNING id;

-- account_restore --
-- Give an account the role and password it is meant to have.
UPDATE accounts SET role = $2, password_hash = $3, verified_at = coalesce(verified_at, now()), updated_at = now()
 WHERE id = $1;

-- account_set_role --
-- Another role; no row back means that it has this one already.
UPDATE accounts SET role = $2, updated_at = now() WHERE id = $1 AND role <> $2 RETURNING id;

-- email_rehash --
-- Keep the address under the current key's hash, and sealed by it.
UPDATE accounts SET email_hash = $2, email = $3, updated_at = now() WHERE id = $1 AND email_hash <> $2;

-- load_accounts_ensure --
-- Verified accounts without address or password, for load; existing ones get the role asked for.
INSERT INTO accounts (id, role, verified_at)
SELECT n.id, $2, now() FROM unnest($1::text[]) AS n (id)
ON CONFLICT (id) DO UPDATE SET role = excluded.role, updated_at = now() WHERE accounts.role <> excluded.role;

-- vendor_insert --
-- A new vendor; no row back: the account has an active one.
INSERT INTO vendors (id, account, name, about) VALUES ($1, $2, $3, $4)
ON CONFLICT (account) WHERE deleted_at IS NULL DO NOTHING
RETURNING id;

-- vendor_get --
-- One vendor that is not deleted.
SELECT id, account, name, about, (extract(epoch FROM created_at) * 1000)::bigint AS created_at_ms
  FROM vendors WHERE id = $1 AND deleted_at IS NULL;

-- vendor_of --
-- The active vendor of an account.
SELECT id, account, name, about, (extract(epoch FROM created_at) * 1000)::bigint AS created_at_ms
  FROM vendors WHERE account = $1 AND deleted_at IS NULL;

-- vendors_page --
-- Vendors, newest first, after the id of the page before.
SELECT id, account, name, about, (extract(epoch FROM created_at) * 1000)::bigint AS created_at_ms
  FROM vendors WHERE deleted_at IS NULL AND ($1::text IS NULL OR id < $1) ORDER BY id DESC LIMIT $2;

-- vendor_update --
-- Change what is given.
UPDATE vendors SET name = coalesce($2, name), about = coalesce($3, about), updated_at = now()
 WHERE id = $1 AND deleted_at IS NULL
RETURNING id, account, name, about, (extract(epoch FROM created_at) * 1000)::bigint AS created_at_ms;

-- vendor_delete --
-- The vendor is gone, and what it sold is sold no more.
WITH gone AS (UPDATE vendors SET deleted_at = now(), updated_at = now() WHERE id = $1 AND deleted_at IS NULL RETURNING id)
UPDATE products p SET discontinued_at = coalesce(p.discontinued_at, now()), updated_at = now()
  FROM gone WHERE p.vendor = gone.id;

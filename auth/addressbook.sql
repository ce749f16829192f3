-- book_lock --
-- One change of an address book at a time; answers what its entries are sealed under. No row: the account was deleted.
SELECT id, data_key FROM accounts WHERE id = $1 AND deleted_at IS NULL FOR NO KEY UPDATE;

-- addresses_page --
-- An account's addresses, newest first, after a cursor.
SELECT d.id, d.sealed, d.is_default, d.created_at, a.data_key
  FROM addresses d JOIN accounts a ON a.id = d.account
 WHERE d.account = $1 AND ($2::text IS NULL OR d.id < $2)
 ORDER BY d.id DESC
 LIMIT $3;

-- address_show --
-- One of them.
SELECT d.id, d.sealed, d.is_default, d.created_at, a.data_key
  FROM addresses d JOIN accounts a ON a.id = d.account
 WHERE d.account = $1 AND d.id = $2;

-- addresses_count --
-- How many there are.
SELECT count(*) FROM addresses WHERE account = $1;

-- default_clear --
-- None is the default, before another becomes it.
UPDATE addresses SET is_default = false WHERE account = $1 AND is_default;

-- address_insert --
-- Another address.
INSERT INTO addresses (id, account, sealed, is_default) VALUES ($1, $2, $3, $4) RETURNING created_at;

-- address_change --
-- What it says now.
UPDATE addresses SET sealed = $3, is_default = $4 WHERE account = $1 AND id = $2;

-- address_delete --
-- Take one out; no row back means it is not this account's.
DELETE FROM addresses WHERE account = $1 AND id = $2 RETURNING id;

-- addresses_delete --
-- Take all out.
DELETE FROM addresses WHERE account = $1;

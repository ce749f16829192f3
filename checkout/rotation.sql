-- orders_address_stale --
-- Values of orders.address under another secret than the one with this id, after $2 in the order of id; $3 at most.
SELECT id AS id, address AS sealed FROM orders
 WHERE id > $2 AND address IS NOT NULL AND get_byte(address, 0) = 1 AND substring(address FROM 2 FOR 4) <> $1
 ORDER BY id LIMIT $3;

-- orders_address_renew --
-- The same under the newest, unless it was written meanwhile.
UPDATE orders SET address = $3 WHERE id = $1 AND address = $2 RETURNING id;

-- payments_instrument_stale --
-- Values of payments.instrument under another secret than the one with this id, after $2 in the order of id; $3 at most.
SELECT id AS id, instrument AS sealed FROM payments
 WHERE id > $2 AND instrument IS NOT NULL AND get_byte(instrument, 0) = 1 AND substring(instrument FROM 2 FOR 4) <> $1
 ORDER BY id LIMIT $3;

-- payments_instrument_renew --
-- The same under the newest, unless it was written meanwhile.
UPDATE payments SET instrument = $3 WHERE id = $1 AND instrument = $2 RETURNING id;

-- entries_code_stale --
-- Values of entries.code under another secret than the one with this id, after $2 in the order of id; $3 at most.
SELECT id, code AS sealed FROM entries WHERE id > $2 AND substring(code FROM 2 FOR 4) <> $1 ORDER BY id LIMIT $3;

-- entries_code_renew --
-- The same under the newest, unless it was written meanwhile.
UPDATE entries SET code = $3 WHERE id = $1 AND code = $2 RETURNING id;

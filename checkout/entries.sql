-- entry_lines --
-- What of a buyer's order are entries, and whether they can be redeemed, as far as its state goes.
SELECT l.product, l.title, l.quantity, l.visit_on, o.claim = 'sold' AND o.state = ANY($3::text[]) AS is_good
  FROM orders o LEFT JOIN entry_lines l ON l.order_id = o.id
 WHERE o.id = $1 AND o.buyer = $2
 ORDER BY l.product;

-- entries_write --
-- Codes for these units; those that have one keep it.
INSERT INTO entries (id, order_id, product, code_hash, code)
SELECT n.id, $1, n.product, n.code_hash, n.code
  FROM unnest($2::text[], $3::text[], $4::bytea[], $5::bytea[]) AS n (id, product, code_hash, code)
ON CONFLICT (id) DO NOTHING;

-- entries_of --
-- The units of an order.
SELECT id, product, code, (extract(epoch FROM redeemed_at) * 1000)::bigint AS redeemed_at_ms FROM entries WHERE order_id = $1;

-- entry_lock --
-- The unit of a code, where this vendor or any operator asks, with its order: nobody cancels it, or lets somebody in
-- with it, meanwhile.
SELECT e.id, e.order_id, e.product, l.title, l.visit_on, o.claim = 'sold' AND o.state = ANY($4::text[]) AS is_good,
       (extract(epoch FROM e.redeemed_at) * 1000)::bigint AS redeemed_at_ms,
       (shop_now() AT TIME ZONE 'UTC')::date AS today
  FROM entries e JOIN orders o ON o.id = e.order_id JOIN entry_lines l ON l.order_id = e.order_id AND l.product = e.product
 WHERE e.code_hash = $1
   AND ($3 OR l.vendor = (SELECT id FROM vendors WHERE account = $2 AND deleted_at IS NULL))
   FOR UPDATE OF o, e;

-- entry_redeem --
-- Let in, once.
UPDATE entries SET redeemed_at = now(), redeemed_by = $2 WHERE id = $1 AND redeemed_at IS NULL
RETURNING (extract(epoch FROM redeemed_at) * 1000)::bigint;

-- entries_redeemed --
-- The newest that were let in, of one vendor, or of all.
SELECT e.id, e.order_id, e.product, l.title, l.visit_on, (extract(epoch FROM e.redeemed_at) * 1000)::bigint AS redeemed_at_ms
  FROM entries e JOIN entry_lines l ON l.order_id = e.order_id AND l.product = e.product
 WHERE e.redeemed_at IS NOT NULL
   AND ($2 OR l.vendor = (SELECT id FROM vendors WHERE account = $1 AND deleted_at IS NULL))
 ORDER BY e.redeemed_at DESC
 LIMIT $3;

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
SELECT e.id, e.order_id, e.product, l.title, l.visit_on, coalesce(l.vendor, '') AS door,
       o.claim = 'sold' AND o.state = ANY($4::text[]) AS is_good,
       (extract(epoch FROM e.redeemed_at) * 1000)::bigint AS redeemed_at_ms,
       (shop_now() AT TIME ZONE 'UTC')::date AS today
  FROM entries e JOIN orders o ON o.id = e.order_id JOIN entry_lines l ON l.order_id = e.order_id AND l.product = e.product
 WHERE e.code_hash = $1
   AND ($3 OR l.vendor = (SELECT id FROM vendors WHERE account = $2 AND deleted_at IS NULL))
   FOR UPDATE OF o, e;

-- entry_redeem --
-- Let in, once, at the door of whose product it is.
UPDATE entries SET redeemed_at = now(), redeemed_by = $2, door = $3 WHERE id = $1 AND redeemed_at IS NULL
RETURNING (extract(epoch FROM redeemed_at) * 1000)::bigint;

-- entries_redeemed --
-- The newest that were let in at all doors, or at one's own. They are found before they are joined: each is one step.
WITH newest AS (
  (SELECT * FROM entries WHERE $2 AND redeemed_at IS NOT NULL ORDER BY redeemed_at DESC LIMIT $3)
   UNION ALL
  (SELECT * FROM entries
    WHERE NOT $2 AND redeemed_at IS NOT NULL
      AND door = (SELECT id FROM vendors WHERE account = $1 AND deleted_at IS NULL)
    ORDER BY redeemed_at DESC LIMIT $3)
)
SELECT e.id, e.order_id, e.product, l.title, l.visit_on, (extract(epoch FROM e.redeemed_at) * 1000)::bigint AS redeemed_at_ms
  FROM newest e JOIN entry_lines l ON l.order_id = e.order_id AND l.product = e.product
 ORDER BY e.redeemed_at DESC;

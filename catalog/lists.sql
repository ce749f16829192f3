-- wish_insert --
-- Wish for a product; no row back: it is wished for already, or there is no such product.
INSERT INTO wishes (account, product) SELECT $1, id FROM products WHERE id = $2 AND deleted_at IS NULL
ON CONFLICT DO NOTHING RETURNING no;

-- wish_of --
-- Whether somebody wishes for a product.
SELECT no FROM wishes WHERE account = $1 AND product = $2;

-- wish_delete --
-- Wish for it no more.
DELETE FROM wishes WHERE account = $1 AND product = $2;

-- wishes_page --
-- What somebody wishes for, newest first, with what a deleted product still tells left out.
SELECT w.no AS wish, d.* FROM wishes w JOIN product_details d ON d.product = w.product
 WHERE w.account = $1 AND NOT d.is_deleted AND ($2::bigint IS NULL OR w.no < $2)
 ORDER BY w.no DESC LIMIT $3;

-- cart_lock --
-- Changes of one cart happen one after the other: its size is bounded.
SELECT pg_advisory_xact_lock(hashtextextended('onsale cart ' || $1, 0));

-- cart_put --
-- So many units, whatever there were. No row back: the cart holds too many products.
INSERT INTO cart_items (account, product, quantity)
SELECT $1, $2, $3
 WHERE EXISTS (SELECT FROM cart_now WHERE account = $1 AND product = $2)
    OR (SELECT count(*) FROM cart_now WHERE account = $1) < $4
ON CONFLICT (account, product)
DO UPDATE SET quantity = excluded.quantity, touched_at = now(), order_id = NULL, taken_at = NULL
RETURNING quantity;

-- cart_delete --
-- One product out of the cart, or all of them.
DELETE FROM cart_items WHERE account = $1 AND ($2::text IS NULL OR product = $2);

-- cart_take --
-- These products out of the cart for as long as their order stands, where it holds as many of them as were ordered.
UPDATE cart_items SET order_id = $4, taken_at = now()
 WHERE account = $1 AND product IN (SELECT product FROM cart_now WHERE account = $1)
   AND (product, quantity) IN (SELECT * FROM unnest($2::text[], $3::int[]));

-- cart_of --
-- What a cart holds and when each item ends, oldest first.
SELECT product, quantity, (extract(epoch FROM touched_at + interval '3 days') * 1000)::bigint AS ends_at_ms
  FROM cart_now WHERE account = $1
 ORDER BY added_at, product;

-- carts_held --
-- What the carts of these accounts hold.
SELECT account, product, quantity FROM cart_now WHERE account = ANY($1::text[]);

-- carts_forget --
-- Items that nobody touched for three days.
DELETE FROM cart_items WHERE ctid IN (SELECT ctid FROM cart_items WHERE touched_at <= now() - interval '3 days' LIMIT 1000);

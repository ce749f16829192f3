-- changes_lock --
-- Up to where notices were read, for one reader at a time. What a restored database counts anew may be below it.
SELECT least(xid, pg_snapshot_xmin(pg_current_snapshot())::text::bigint) AS read_to FROM recommending FOR UPDATE;

-- changes_end --
-- Up to where to read now: whole transactions, all of which have ended, with about so many notices.
SELECT least(horizon, (SELECT xid + 1 FROM notices WHERE xid >= $1 ORDER BY xid OFFSET $2 LIMIT 1)) AS read_to, horizon
  FROM (SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon) AS present;

-- products_due --
-- Products of orders that were paid or given back in between are to be counted anew.
INSERT INTO bought_together (product)
SELECT DISTINCT i.product FROM notices n JOIN order_items i ON i.order_id = n.order_id
 WHERE n.xid >= $1 AND n.xid < $2 AND n.kind = 'order' AND n.state IN ('confirmed', 'cancelled', 'returned')
 ORDER BY i.product
ON CONFLICT (product) DO UPDATE SET is_due = true
RETURNING product;

-- changes_read --
-- In the transaction that marked their products.
UPDATE recommending SET xid = $1;

-- due_lock --
-- Those to be counted whose last count is oldest, for one counter at a time.
SELECT product FROM bought_together WHERE is_due ORDER BY counted_at, product LIMIT $1 FOR UPDATE SKIP LOCKED;

-- together_count --
-- What was bought with each: of its newest $2 orders those that were paid and stand, by how many of them have it too.
UPDATE bought_together b
   SET is_due = false, counted_at = now(),
       others = ARRAY(
         SELECT i.product
           FROM (SELECT order_id FROM order_items WHERE product = b.product ORDER BY order_id DESC LIMIT $2) AS newest
           JOIN orders o ON o.id = newest.order_id
            AND o.state IN ('confirmed', 'preparing', 'shipped', 'delivered', 'completed', 'return_requested')
           JOIN order_items i ON i.order_id = o.id AND i.product <> b.product
          GROUP BY i.product ORDER BY count(*) DESC, i.product LIMIT $3)
 WHERE b.product = ANY($1::text[]);

-- ranking_claim --
-- Best sellers are to be ranked by whoever gets a row: they were not within the last $1 seconds.
UPDATE recommending SET ranked_at = now()
 WHERE ranked_at IS NULL OR ranked_at <= now() - make_interval(secs => $1)
RETURNING is_only;

-- ranking_delete --
-- Before the new one, in its transaction.
DELETE FROM best_sellers;

-- ranking_insert --
-- Of the newest $1 orders those that were paid and stand: the products that most of them have.
INSERT INTO best_sellers (place, product)
SELECT row_number() OVER (ORDER BY count(*) DESC, i.product), i.product
  FROM (SELECT id, state FROM orders ORDER BY id DESC LIMIT $1) AS newest
  JOIN order_items i ON i.order_id = newest.id
 WHERE newest.state IN ('confirmed', 'preparing', 'shipped', 'delivered', 'completed', 'return_requested')
 GROUP BY i.product ORDER BY count(*) DESC, i.product LIMIT $2
RETURNING product;

-- recommended --
-- What to show beside a product: what was bought with it, then what sells best, then what is newest, each once, and
-- only what can be bought at this moment. Those on sale are told by the caller, whose clock opens and closes sales.
WITH likely AS (
  SELECT t.product, 'bought_together' AS reason, 1 AS shelf, t.place
    FROM bought_together b CROSS JOIN LATERAL unnest(b.others) WITH ORDINALITY AS t (product, place) WHERE b.product = $1
   UNION ALL
  SELECT product, 'popular', 2, place FROM best_sellers
   UNION ALL
  SELECT id, 'new', 3, row_number() OVER (ORDER BY no DESC)
    FROM (SELECT id, no FROM products WHERE deleted_at IS NULL ORDER BY no DESC LIMIT $4) AS newest
), first AS (
  SELECT DISTINCT ON (product) * FROM likely WHERE product <> $1 ORDER BY product, shelf
)
SELECT d.*, f.reason
  FROM first f JOIN product_details d ON d.product = f.product JOIN products p ON p.id = f.product
 WHERE NOT d.is_deleted AND NOT d.is_discontinued
   AND (d.product = ANY($2::text[])
        OR d.units_left > 0 AND shop_now() >= coalesce(p.available_from, '-infinity')
                            AND shop_now() < coalesce(p.available_until, 'infinity')
                            AND (shop_now() AT TIME ZONE 'UTC')::date <= coalesce(p.visit_on, 'infinity'))
 ORDER BY f.shelf, f.place
 LIMIT $3;

-- sale_lock --
-- One sale for whoever changes it: its plan on the shop's clock, and whether it runs.
SELECT s.id, s.vendor, s.title, s.limit_per_buyer, s.hold_ttl_s, s.approved_at IS NOT NULL AS is_approved,
       (extract(epoch FROM s.opens_at) * 1000)::bigint AS opens_at_ms,
       (extract(epoch FROM s.closes_at) * 1000)::bigint AS closes_at_ms,
       (extract(epoch FROM shop_now()) * 1000)::bigint AS now_ms,
       s.approved_at IS NOT NULL AND (s.opened_at IS NOT NULL OR shop_now() >= s.opens_at) AS is_running,
       s.closed_at IS NOT NULL OR shop_now() >= s.closes_at AS is_over
  FROM sales s WHERE s.id = $1 AND s.id <> '_shop' FOR NO KEY UPDATE;

-- vendor_lock --
-- A vendor's proposals are judged one after the other.
SELECT id FROM vendors WHERE id = $1 AND deleted_at IS NULL FOR UPDATE;

-- sales_overlapping --
-- Another sale of the same vendor over the same time.
SELECT s.id FROM sales s
 WHERE s.id <> $2 AND s.opens_at < to_timestamp($4 / 1000.0) AND s.closes_at > to_timestamp($3 / 1000.0)
   AND s.closed_at IS NULL
   AND EXISTS (SELECT FROM sale_items i WHERE i.sale = s.id AND i.proposed_by = $1 AND i.status IN ('pending', 'approved'))
 LIMIT 1;

-- sale_propose --
-- A sale that its vendor proposes: it does not open before something of it is approved.
UPDATE sales SET vendor = $2, approved_at = NULL WHERE id = $1;

-- items_propose --
-- Its items.
UPDATE sale_items SET status = 'pending', proposed_by = $2 WHERE sale = $1;

-- sale_update --
-- Another plan.
UPDATE sales SET title = $2, opens_at = to_timestamp($3 / 1000.0), closes_at = to_timestamp($4 / 1000.0),
       limit_per_buyer = $5, hold_ttl_s = $6, updated_at = now()
 WHERE id = $1;

-- sale_unapprove --
-- Its vendor has edited it: everything of it is judged again.
WITH items AS (UPDATE sale_items SET status = 'pending', reason = NULL WHERE sale = $1 AND status = 'approved')
UPDATE sales SET approved_at = NULL, updated_at = now() WHERE id = $1;

-- sale_withdraw --
-- Units were promised to it that were not free: it never was.
WITH items AS (
  UPDATE sale_items SET status = 'removed', reason = 'not_enough_stock' WHERE sale = $1
)
UPDATE sales SET approved_at = NULL, closed_at = now(), updated_at = now() WHERE id = $1;

-- item_of --
-- One item of a sale; it is locked.
SELECT status, kept, stock, proposed_by FROM sale_items WHERE sale = $1 AND product = $2;

-- item_put --
-- An item that is proposed, for the first time or anew.
INSERT INTO sale_items AS i (sale, product, title, amount, list_amount, currency, stock, position, status, proposed_by)
SELECT $1, $2, $3, $4, $5, $6, 0, coalesce(max(position) + 1, 0), $7, $8 FROM sale_items WHERE sale = $1
ON CONFLICT (sale, product) DO UPDATE
   SET title = excluded.title, amount = excluded.amount, list_amount = excluded.list_amount, currency = excluded.currency,
       status = excluded.status, proposed_by = excluded.proposed_by, reason = NULL;

-- item_currency --
-- What the sale's other items are sold in.
SELECT currency FROM sale_items WHERE sale = $1 AND status IN ('pending', 'approved') LIMIT 1;

-- item_settle --
-- What becomes of an item, and the units it had put aside.
UPDATE sale_items i SET status = $3, reason = $4, kept = 0
  FROM (SELECT kept FROM sale_items WHERE sale = $1 AND product = $2) AS before
 WHERE i.sale = $1 AND i.product = $2
RETURNING before.kept AS units;

-- sale_approve --
-- Something of it is approved: it opens when its time comes.
UPDATE sales SET approved_at = coalesce(approved_at, now()), updated_at = now() WHERE id = $1;

-- item_keep --
-- Units put aside for an item, or taken back from there.
UPDATE sale_items SET kept = kept + $3 WHERE sale = $1 AND product = $2 AND kept + $3 >= 0 RETURNING kept;

-- product_of --
-- What is proposed, as it is sold outside sales.
SELECT p.title, p.vendor, p.amount, p.currency, d.units_left
  FROM products p JOIN product_details d ON d.product = p.id
 WHERE p.id = $1 AND p.deleted_at IS NULL AND p.discontinued_at IS NULL;

-- items_late --
-- Proposals that nobody approved in time, oldest first.
SELECT i.sale, i.product FROM sale_items i JOIN sales s ON s.id = i.sale
 WHERE i.status = 'pending' AND shop_now() > s.opens_at - make_interval(secs => $1 / 1000.0)
 ORDER BY s.opens_at LIMIT 100;

-- now_ms --
-- The shop's clock.
SELECT (extract(epoch FROM shop_now()) * 1000)::bigint;

-- sale_is_of --
-- Whether a vendor has proposed the sale, or something for it.
SELECT EXISTS (SELECT FROM sales WHERE id = $1 AND vendor = $2)
    OR EXISTS (SELECT FROM sale_items WHERE sale = $1 AND proposed_by = $2);

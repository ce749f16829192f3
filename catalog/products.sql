-- product_new --
-- A product that somebody sells; no row back: its id is taken.
INSERT INTO products (id, vendor, title, about, image, amount, currency, available_from, available_until, kind, visit_on)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (id) DO NOTHING
RETURNING id;

-- product_get --
-- One product that is not deleted.
SELECT * FROM product_details WHERE product = $1 AND NOT is_deleted;

-- product_lock --
-- The same, for whoever changes it.
SELECT vendor FROM products WHERE id = $1 AND deleted_at IS NULL FOR UPDATE;

-- product_update --
-- A product as it shall be.
UPDATE products
   SET title = $2, about = $3, image = $4, amount = $5, currency = $6, available_from = $7, available_until = $8,
       grams = CASE WHEN title = $2 THEN grams END, discontinued_at = CASE WHEN $9 THEN coalesce(discontinued_at, now()) END, updated_at = now()
 WHERE id = $1;

-- product_in_sale --
-- Whether a sale that has not ended has it, or judges it.
SELECT EXISTS (SELECT FROM sale_items i JOIN sales s ON s.id = i.sale
                WHERE i.product = $1 AND i.sale <> '_shop' AND i.status IN ('pending', 'approved')
                  AND s.closed_at IS NULL AND shop_now() < s.closes_at);

-- product_delete --
-- It is sold no more, and found no more. Its row stays: orders name it.
WITH found AS (DELETE FROM product_grams WHERE no = (SELECT no FROM products WHERE id = $1))
UPDATE products SET deleted_at = now(), updated_at = now() WHERE id = $1 AND deleted_at IS NULL;

-- products_page --
-- Products, newest first, after the number of the page before. Those on sale are told by the caller, whose clock opens
-- and closes sales; discontinued ones are listed only where they are asked for. Prices are those of the
-- moment: only products that an event names now are looked up in the events.
SELECT * FROM product_details
 WHERE NOT is_deleted
   AND is_discontinued = (coalesce($3, '') = 'discontinued')
   AND ($1::bigint IS NULL OR no < $1)
   AND ($4::text IS NULL OR vendor = $4)
   AND ($5::bigint IS NULL OR amount >= $5 AND NOT (
        product IN (SELECT n.product FROM discounted_now n)
        AND EXISTS (SELECT FROM reduced_now r WHERE r.product = product_details.product AND r.amount < $5)))
   AND ($6::bigint IS NULL OR amount <= $6 OR (
        product IN (SELECT n.product FROM discounted_now n)
        AND EXISTS (SELECT FROM reduced_now r WHERE r.product = product_details.product AND r.amount <= $6)))
   AND CASE $3 WHEN 'on_sale' THEN product = ANY($7::text[])
               WHEN 'available' THEN units_left > 0 AND product <> ALL($7::text[])
               WHEN 'out_of_stock' THEN units_left <= 0 AND product <> ALL($7::text[])
               ELSE true END
 ORDER BY no DESC
 LIMIT $2;

-- discount_insert --
-- A new discount event.
INSERT INTO discounts (id, vendor, title, starts_at, ends_at)
VALUES ($1, $2, $3, to_timestamp($4 / 1000.0), to_timestamp($5 / 1000.0));

-- discount_items_insert --
-- What it takes off which product.
INSERT INTO discount_items (discount, product, percent) SELECT $1, * FROM unnest($2::text[], $3::int[]);

-- discount_items_delete --
-- Before other items are written.
DELETE FROM discount_items WHERE discount = $1;

-- discount_lock --
-- One event, for whoever changes it.
SELECT vendor, title, (extract(epoch FROM starts_at) * 1000)::bigint AS starts_at_ms,
       (extract(epoch FROM ends_at) * 1000)::bigint AS ends_at_ms
  FROM discounts WHERE id = $1 AND deleted_at IS NULL FOR UPDATE;

-- discount_update --
-- Another plan of an event.
UPDATE discounts SET title = $2, starts_at = to_timestamp($3 / 1000.0), ends_at = to_timestamp($4 / 1000.0) WHERE id = $1;

-- discount_delete --
-- Nothing is cheaper by it any more.
UPDATE discounts SET deleted_at = now() WHERE id = $1;

-- discounts_page --
-- Events, newest first, after the id of the page before; one of them where it is named.
SELECT d.id, d.vendor, d.title, (extract(epoch FROM d.starts_at) * 1000)::bigint AS starts_at_ms,
       (extract(epoch FROM d.ends_at) * 1000)::bigint AS ends_at_ms, shop_now() >= d.starts_at AND shop_now() < d.ends_at AS is_on,
       (SELECT coalesce(json_agg(json_build_object('product', i.product, 'percent', i.percent) ORDER BY i.product), '[]')
          FROM discount_items i WHERE i.discount = d.id)::text AS items
  FROM discounts d
 WHERE d.deleted_at IS NULL AND ($1::text IS NULL OR d.id < $1) AND ($3::text IS NULL OR d.id = $3)
 ORDER BY d.id DESC LIMIT $2;

-- products_owned --
-- Whose these products are.
SELECT id, vendor FROM products WHERE id = ANY($1::text[]) AND deleted_at IS NULL;

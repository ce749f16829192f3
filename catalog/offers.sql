-- offers_now --
-- What these products cost at this moment, by the clock that schedules are read with, and whether they are sold at all.
-- What is taken off is rounded down to a whole minor unit.
SELECT p.id AS product, p.vendor, p.title, p.currency, p.amount - p.amount * coalesce(d.percent, 0) / 100 AS amount,
       p.amount AS list_amount, d.discount, d.title AS discount_title, coalesce(d.percent, 0) AS percent,
       p.discontinued_at IS NULL
       AND shop_now() >= coalesce(p.available_from, '-infinity')
       AND shop_now() < coalesce(p.available_until, 'infinity')
       AND (shop_now() AT TIME ZONE 'UTC')::date <= coalesce(p.visit_on, 'infinity') AS is_available
  FROM products p
  LEFT JOIN LATERAL (SELECT * FROM discounts_now n WHERE n.product = p.id) AS d ON true
 WHERE p.id = ANY($1::text[]) AND p.deleted_at IS NULL;

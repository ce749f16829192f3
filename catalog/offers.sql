-- offers_now --
-- What these products cost at this moment, by the clock that schedules are read with, and whether they are sold at all.
SELECT p.id AS product, p.vendor, p.title, p.currency, p.amount, p.amount AS list_amount,
       p.discontinued_at IS NULL
       AND now() + make_interval(secs => c.offset_ms / 1000.0) >= coalesce(p.available_from, '-infinity')
       AND now() + make_interval(secs => c.offset_ms / 1000.0) < coalesce(p.available_until, 'infinity') AS is_available
  FROM products p CROSS JOIN clock c
 WHERE p.id = ANY($1::text[]) AND p.deleted_at IS NULL;

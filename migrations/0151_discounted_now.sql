-- Products that an event names at this moment: what a list by price looks at twice.
CREATE VIEW discounted_now AS
SELECT i.product
  FROM discounts d CROSS JOIN clock c JOIN discount_items i ON i.discount = d.id
 WHERE d.deleted_at IS NULL AND now() + make_interval(secs => c.offset_ms / 1000.0) >= d.starts_at
   AND now() + make_interval(secs => c.offset_ms / 1000.0) < d.ends_at;

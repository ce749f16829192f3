-- sales_all --
-- Every sale with its items, as one row each: what a process keeps in memory. The shop has too many items for that.
SELECT s.id, s.no, s.title,
       (extract(epoch FROM coalesce(s.opened_at, s.opens_at - make_interval(secs => c.offset_ms / 1000.0))) * 1000)::bigint
         AS opens_at_ms,
       (extract(epoch FROM least(s.closed_at, s.closes_at - make_interval(secs => c.offset_ms / 1000.0))) * 1000)::bigint
         AS closes_at_ms,
       s.draining_at IS NOT NULL AS draining, s.closed_at IS NOT NULL AS closed,
       s.limit_per_buyer, s.hold_ttl_s, s.guests, s.opening, s.message::text AS message,
       s.policy::text AS policy, s.policy_version, s.paused_by,
       coalesce((extract(epoch FROM s.revert_at) * 1000)::bigint, 0) AS revert_at_ms,
       (s.revert_to - 'paused')::text AS revert_to, (s.revert_to ->> 'paused')::boolean AS revert_paused,
       s.refunding::text AS refunding, s.line_epoch, s.shop_epoch, s.place_ceiling,
       coalesce((SELECT json_agg(json_build_object(
           'product', i.product, 'title', i.title, 'amount', i.amount, 'list_amount', i.list_amount,
           'currency', i.currency, 'stock', i.stock, 'claimed', i.claimed, 'sold', i.sold,
           'visit_on', i.visit_on) ORDER BY i.position, i.product)
         FROM sale_items i WHERE i.sale = s.id AND s.id <> '_shop'), '[]')::text AS items
  FROM sales s CROSS JOIN clock c
 ORDER BY s.no;

-- sale_insert --
-- A new sale; no row back means its id is taken.
INSERT INTO sales (id, title, opens_at, closes_at, limit_per_buyer, hold_ttl_s, guests, opening, policy, paused_by, created_by,
                   refunding)
VALUES ($1, $2, coalesce($3, now()), $4, $5, $6, $7, $8, $9::jsonb, $10, $11, $12::jsonb)
ON CONFLICT (id) DO NOTHING
RETURNING no;

-- product_insert --
-- A product of the catalogue; an existing one stays as it is.
INSERT INTO products (id, title, amount, currency) VALUES ($1, $2, $3, $4) ON CONFLICT (id) DO NOTHING;

-- sale_item_insert --
-- An item of a new sale. Its units are counted into Redis by the stock move written beside it.
INSERT INTO sale_items (sale, product, title, amount, list_amount, currency, stock, position, visit_on)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9);

-- stock_move_insert --
-- One change of a sale's stock, applied once per id on each side.
INSERT INTO stock_moves (id, sale, product, quantity, why) VALUES ($1, $2, $3, $4, $5);

-- clock_advance --
-- Move the test clock: schedules only, never holds, passes or rates.
UPDATE clock SET offset_ms = offset_ms + $1 RETURNING offset_ms;

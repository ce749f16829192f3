-- sales_all --
-- Every sale that may open, or has keys in Redis, with its approved items: what a process keeps in memory. The shop has
-- too many items for that. Of one sale that is named, every item, whatever it is. What is not approved opens only as it
-- closes, which is never.
SELECT s.id, s.no, s.title,
       (extract(epoch FROM CASE WHEN s.approved_at IS NULL AND s.id <> '_shop'
                                THEN least(s.closed_at, s.closes_at - make_interval(secs => c.offset_ms / 1000.0))
                                ELSE coalesce(s.opened_at, s.opens_at - make_interval(secs => c.offset_ms / 1000.0)) END)
         * 1000)::bigint AS opens_at_ms,
       (extract(epoch FROM coalesce(s.opened_at, s.opens_at - make_interval(secs => c.offset_ms / 1000.0))) * 1000)::bigint
         AS planned_at_ms,
       s.vendor, s.approved_at IS NOT NULL AS is_approved,
       (extract(epoch FROM least(s.closed_at, s.closes_at - make_interval(secs => c.offset_ms / 1000.0))) * 1000)::bigint
         AS closes_at_ms,
       s.draining_at IS NOT NULL AS draining, s.closed_at IS NOT NULL AS closed, s.cancelled_at IS NOT NULL AS is_cancelled,
       s.limit_per_buyer, s.hold_ttl_s, s.guests, s.opening, s.message::text AS message,
       s.policy::text AS policy, s.policy_version, s.paused_by,
       coalesce((extract(epoch FROM s.revert_at) * 1000)::bigint, 0) AS revert_at_ms,
       (s.revert_to - 'paused')::text AS revert_to, (s.revert_to ->> 'paused')::boolean AS revert_paused,
       s.refunding::text AS refunding, s.line_epoch, s.shop_epoch, s.place_ceiling,
       coalesce((SELECT json_agg(json_build_object(
           'product', i.product, 'title', i.title, 'amount', i.amount, 'list_amount', i.list_amount,
           'currency', i.currency, 'stock', i.stock, 'claimed', i.claimed, 'sold', i.sold,
           'visit_on', i.visit_on, 'status', i.status, 'kept', i.kept, 'reason', i.reason) ORDER BY i.position, i.product)
         FROM sale_items i
        WHERE i.sale = s.id AND s.id <> '_shop' AND (i.status = 'approved' OR $1::text IS NOT NULL)), '[]')::text AS items
  FROM sales s CROSS JOIN clock c
 WHERE s.id = $1
    OR ($1::text IS NULL AND (s.approved_at IS NOT NULL OR s.line_epoch > 0 OR s.shop_epoch > 0
                              OR EXISTS (SELECT FROM sale_items i WHERE i.sale = s.id AND i.stock > 0)))
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
-- An item of a new sale. Its units are counted into Redis by the stock move written beside it. What it costs outside the
-- sale is its list price, whatever else was said.
INSERT INTO sale_items (sale, product, title, amount, list_amount, currency, stock, position, visit_on)
SELECT $1, $2, $3, $4, greatest($5, (SELECT p.amount FROM products p WHERE p.id = $2 AND p.currency = $6)), $6, $7, $8, $9;

-- item_is_ordinary --
-- Whether a product is sold outside sales: then a sale's units are its.
SELECT EXISTS (SELECT FROM sale_items WHERE sale = '_shop' AND product = $1);

-- stock_move_ask --
-- Units that a new sale takes out of the product: they arrive once they were free.
INSERT INTO stock_moves (id, sale, product, quantity, why, state, target)
VALUES ($1, '_shop', $3, -$4::bigint, 'opening', 'asked', $2);

-- sales_proposed --
-- Sales that vendors propose, newest first, of one of them where it is named.
SELECT id FROM sales WHERE vendor IS NOT NULL AND ($1::text IS NULL OR vendor = $1) AND ($2::int IS NULL OR no < $2)
 ORDER BY no DESC LIMIT $3;

-- stock_move_insert --
-- One change of a sale's stock, applied once per id on each side.
INSERT INTO stock_moves (id, sale, product, quantity, why) VALUES ($1, $2, $3, $4, $5);

-- clock_advance --
-- Move the test clock: schedules only, never holds, passes or rates.
UPDATE clock SET offset_ms = offset_ms + $1 RETURNING offset_ms;

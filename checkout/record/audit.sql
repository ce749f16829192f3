-- sales_all --
-- What is audited.
SELECT id, shop_epoch, line_epoch, limit_per_buyer, place_ceiling FROM sales ORDER BY no;

-- watermarks_of --
-- How far the shop's streams are recorded, in the snapshot of the caller.
SELECT stream, upto FROM watermarks WHERE sale = $1 AND epoch = $2 AND stream IN ('money', 'holdings');

-- items_of --
-- The record's counters, with the units held by its orders.
SELECT i.product, i.stock, i.claimed, i.sold,
       coalesce((SELECT sum(oi.quantity) FROM orders o JOIN order_items oi ON oi.order_id = o.id
                  WHERE o.sale = i.sale AND oi.product = i.product AND o.state = 'reserved'), 0)::bigint AS held
  FROM sale_items i WHERE i.sale = $1;

-- moves_pending --
-- Stock moves that one side is not known to have: Redis those that are counted, the record those that are asked for;
-- those of an order go from sold to free.
SELECT id, product, quantity, state, order_id IS NOT NULL AS is_return FROM stock_moves
 WHERE sale = $1 AND applied_epoch IS NULL AND state <> 'refused' ORDER BY id;

-- refusals_of --
-- Claims refused in this epoch, and whether their units were put away.
SELECT order_id, reason, settled_at IS NOT NULL AS is_settled FROM refusals WHERE sale = $1 AND epoch = $2;

-- orders_of --
-- Where the record has the units of these orders.
SELECT id, state, claim, rev, revision FROM orders WHERE id = ANY($1::text[]);

-- order_items_of --
-- How many units of what these orders have.
SELECT order_id, product, quantity FROM order_items WHERE order_id = ANY($1::text[]);

-- constraint_holds --
-- Whether Postgres itself would refuse to oversell.
SELECT count(*) = 1 FROM pg_constraint
 WHERE conname = $1 AND conrelid = $2::text::regclass AND contype = 'c' AND convalidated;

-- items_recounted --
-- Items whose counters are not what their orders, or the ledger, add up to.
SELECT i.product, i.claimed, i.sold, o.claimed AS orders_claimed, o.sold AS orders_sold, l.claimed AS ledger_claimed,
       l.sold AS ledger_sold, i.stock
  FROM sale_items i
  CROSS JOIN LATERAL (
    SELECT coalesce(sum(oi.quantity) FILTER (WHERE r.claim = 'open'), 0) AS claimed,
           coalesce(sum(oi.quantity) FILTER (WHERE r.claim = 'sold'), 0) AS sold
      FROM orders r JOIN order_items oi ON oi.order_id = r.id
     WHERE r.sale = i.sale AND oi.product = i.product AND r.claim IN ('open', 'sold')) o
  CROSS JOIN LATERAL (
    SELECT coalesce(sum(CASE verb WHEN 'claimed' THEN quantity WHEN 'sold' THEN -quantity WHEN 'released' THEN -quantity END), 0)
             AS claimed,
           coalesce(sum(CASE verb WHEN 'sold' THEN quantity WHEN 'restocked' THEN -quantity END), 0) AS sold
      FROM ledger WHERE sale = i.sale AND product = i.product) l
 WHERE i.sale = $1
   AND (i.claimed <> o.claimed OR i.sold <> o.sold OR i.claimed <> l.claimed OR i.sold <> l.sold
        OR i.claimed + i.sold > i.stock);

-- confirmations_unsold --
-- Confirmed orders without exactly one sold claim: no captured payment, or several, or units the ledger never sold.
SELECT o.id, o.claim,
       (SELECT count(*) FROM payments p WHERE p.order_id = o.id AND p.state = 'captured') AS captured
  FROM orders o
 WHERE o.sale = $1 AND o.state IN ('confirmed', 'preparing', 'shipped', 'delivered', 'completed', 'return_requested')
   AND (o.claim <> 'sold' OR o.confirmed_at IS NULL
        OR (SELECT count(*) FROM payments p WHERE p.order_id = o.id AND p.state = 'captured') <> 1
        OR EXISTS (SELECT FROM order_items i WHERE i.order_id = o.id
                      AND (SELECT count(*) FROM ledger l
                            WHERE l.order_id = o.id AND l.product = i.product AND l.verb = 'sold') <> 1))
 LIMIT 20;

-- sold_unconfirmed --
-- Sold claims of orders that were never confirmed.
SELECT id FROM orders
 WHERE sale = $1 AND claim = 'sold' AND state IN ('reserved', 'confirming', 'expired', 'released', 'payment_failed')
 LIMIT 20;

-- returns_unsettled --
-- Orders that were cancelled or sent back, and whose units did not come back exactly once.
SELECT o.id FROM orders o
 WHERE o.sale = $1 AND o.state IN ('cancelled', 'returned')
   AND (o.claim <> 'released'
        OR EXISTS (SELECT FROM order_items i WHERE i.order_id = o.id
                      AND ((SELECT coalesce(sum(l.quantity), 0) FROM ledger l
                             WHERE l.order_id = o.id AND l.product = i.product AND l.verb = 'restocked') <> i.quantity
                           OR (SELECT coalesce(sum(m.quantity), 0) FROM stock_moves m
                                WHERE m.order_id = o.id AND m.product = i.product) <> i.quantity)))
 LIMIT 20;

-- verdicts_missing --
-- Refused claims whose refusal is no row.
SELECT o.id FROM orders o
 WHERE o.sale = $1 AND o.claim = 'refused' AND NOT EXISTS (SELECT FROM refusals r WHERE r.order_id = o.id)
UNION ALL
SELECT p.order_id FROM payments p JOIN orders o ON o.id = p.order_id
 WHERE o.sale = $1 AND p.state = 'refused' AND NOT EXISTS (SELECT FROM refusals r WHERE r.order_id = p.order_id)
 LIMIT 20;

-- places_of_two --
-- Places whose turns bought for more than one buyer: issued twice. A turn is EPOCH-PLACE-N.
SELECT split_part(turn, '-', 2)::bigint AS place FROM orders
 WHERE sale = $1 AND turn ~ '^[0-9]+-[0-9]+-[0-9]+$'
 GROUP BY 1 HAVING count(DISTINCT buyer) > 1
 LIMIT 20;

-- ceiling_of --
-- No place above this was ever issued.
SELECT place_ceiling FROM sales WHERE id = $1;

-- admissions_of --
-- Every admission of a sale as it happened.
SELECT epoch, lane, (extract(epoch FROM at) * 1000)::bigint AS at_ms, places, returners, rate_milli, burst, active,
       active_max, inversions
  FROM admissions WHERE sale = $1
 ORDER BY epoch, lane, string_to_array(event_id, '-')::bigint[];

-- buyers_above_limit --
-- Buyers who have more than one may, or whose count is not that of their orders.
SELECT b.buyer, b.bought, b.bought_max, coalesce(o.units, 0) AS units
  FROM sale_buyers b
  LEFT JOIN (SELECT r.buyer, sum(i.quantity) AS units
               FROM orders r JOIN order_items i ON i.order_id = r.id
              WHERE r.sale = $1 AND r.claim IN ('open', 'sold') GROUP BY r.buyer) o ON o.buyer = b.buyer
 WHERE b.sale = $1 AND (b.bought > b.bought_max OR b.bought <> coalesce(o.units, 0))
 LIMIT 20;

-- captures_astray --
-- Captured payments without a sold claim, and payments being given back without a refund of everything.
SELECT p.id, p.state FROM payments p JOIN orders o ON o.id = p.order_id
 WHERE o.sale = $1
   AND ((p.state = 'captured' AND o.claim <> 'sold')
        OR (p.state IN ('refunding', 'refunded') AND p.amount > 0 AND o.state NOT IN ('cancelled', 'returned')
            AND NOT EXISTS (SELECT FROM refunds r WHERE r.payment_id = p.id
                               -- What was taken wrongly goes back as it was taken.
                               AND (r.amount = p.amount OR r.reason = 'amount_mismatch'))))
 LIMIT 20;

-- refunds_by_policy --
-- What was given back for orders that were cancelled or sent back, with all that the sale's policy looks at.
SELECT o.id, o.reason, s.refunding::text AS refunding, o.amount,
       (shop_time_of(o.confirmed_at) AT TIME ZONE 'UTC')::date AS purchased_on,
       (shop_time_of(coalesce(o.return_requested_at, o.ended_at)) AT TIME ZONE 'UTC')::date AS cancelled_on,
       (SELECT json_agg(json_build_array(i.quantity * i.unit_amount, si.visit_on))
          FROM order_items i JOIN sale_items si ON si.product = i.product AND si.sale = o.sale
         WHERE i.order_id = o.id)::text AS lines,
       coalesce((SELECT sum(r.amount) FROM refunds r JOIN payments p ON p.id = r.payment_id
                  WHERE p.order_id = o.id AND r.reason IN ('cancelled_by_buyer', 'returned', 'sale_cancelled')), 0)::bigint
         AS refunded
  FROM orders o JOIN sales s ON s.id = o.sale
 WHERE o.sale = $1 AND o.state IN ('cancelled', 'returned');

-- payments_by_id --
-- What the record has of these attempts.
SELECT p.id, p.state, p.amount, o.claim, r.state AS refund, r.amount AS refund_amount, r.reason AS refund_reason
  FROM payments p JOIN orders o ON o.id = p.order_id LEFT JOIN refunds r ON r.payment_id = p.id
 WHERE p.id = ANY($1::text[]);

-- captured_of --
-- Captures that the record stands on.
SELECT p.id, p.amount FROM payments p JOIN orders o ON o.id = p.order_id WHERE o.sale = $1 AND p.state = 'captured';

-- orders_in --
-- Which of these orders are this sale's.
SELECT id FROM orders WHERE sale = $1 AND id = ANY($2::text[]);

-- claims_open --
-- Which of these orders have an open claim.
SELECT id FROM orders WHERE id = ANY($1::text[]) AND claim = 'open';

-- guards --
-- For a transaction that locks what the flusher locks: a stopped one gives its locks back, a blocked one gives up, and
-- COMMIT answers only once the rows are on disk.
SELECT set_config('idle_in_transaction_session_timeout', '2s', true), set_config('lock_timeout', '2s', true),
       set_config('synchronous_commit', 'on', true);

-- order_lock --
-- One order, before anything else of it is locked; what was paid for it, and the days that its refund is counted from.
SELECT o.id, o.sale, o.buyer, o.state, o.claim, o.ships_on IS NOT NULL AS is_visit, s.refunding::text AS refunding,
       (shop_time_of(o.confirmed_at) AT TIME ZONE 'UTC')::date AS purchased_on,
       (shop_time_of(coalesce(o.return_requested_at, now())) AT TIME ZONE 'UTC')::date AS cancelled_on,
       o.confirmed_at <= moment_of(shop_now() - make_interval(secs => $2::bigint / 1000.0)) AS is_late
  FROM orders o JOIN sales s ON s.id = o.sale
 WHERE o.id = $1
   FOR UPDATE OF o;

-- is_redeemed --
-- Whether a unit of it has let somebody in. Asked under the order's lock, which the door takes too.
SELECT is_redeemed($1);

-- order_outlook --
-- What a request of its buyer would be judged by at this moment. Nothing is locked: the request itself decides.
SELECT o.state, o.currency, o.ships_on IS NOT NULL AS is_visit, s.refunding::text AS refunding,
       (shop_time_of(o.confirmed_at) AT TIME ZONE 'UTC')::date AS purchased_on,
       (shop_time_of(now()) AT TIME ZONE 'UTC')::date AS cancelled_on,
       o.confirmed_at <= moment_of(shop_now() - make_interval(secs => $3::bigint / 1000.0)) AS is_late,
       array_agg(i.quantity * i.unit_amount ORDER BY i.product) AS amounts, array_agg(e.visit_on ORDER BY i.product) AS days
  FROM orders o JOIN sales s ON s.id = o.sale
  JOIN order_items i ON i.order_id = o.id JOIN sale_items e ON e.sale = o.sale AND e.product = i.product
 WHERE o.id = $1 AND o.buyer = $2
   AND NOT is_redeemed(o.id)
 GROUP BY o.id, s.id;

-- items_lock --
-- Its lines, with the sale's items locked in the order in which every writer locks them.
SELECT i.quantity * i.unit_amount AS amount, s.visit_on
  FROM order_items i JOIN sale_items s ON s.product = i.product
 WHERE i.order_id = $1 AND s.sale = $2
 ORDER BY s.product
   FOR UPDATE OF s;

-- request_find --
-- What was answered to that key.
SELECT digest, refused FROM order_requests WHERE order_id = $1 AND verb = $2 AND buyer = $3 AND key = $4;

-- request_write --
-- Keep an answer under its key. Nobody is refused a hundred times for one order by mistake: more are not remembered.
INSERT INTO order_requests (order_id, verb, buyer, key, digest, refused)
SELECT $1, $2, $3, $4, $5, $6
 WHERE NOT $6 OR (SELECT count(*) FROM order_requests r WHERE r.order_id = $1 AND r.verb = $2 AND r.buyer = $3) < 100
ON CONFLICT DO NOTHING;

-- order_end --
-- Bought no more: from one of these states to its last one, the claim let go.
UPDATE orders
   SET state = $2, claim = 'released', claim_rev = claim_rev + 1, reason = $3, ended_at = now(), updated_at = now()
 WHERE id = $1 AND claim = 'sold' AND state = ANY($4::text[])
RETURNING id;

-- units_return --
-- Its units are free again in the record, with a move for each that Redis has to make, a line of the ledger, and the
-- buyer's limit.
WITH lines AS (
  SELECT product, quantity, unit_amount, currency FROM order_items WHERE order_id = $1
), items AS (
  UPDATE sale_items s SET sold = s.sold - l.quantity FROM lines l WHERE s.sale = $2 AND s.product = l.product
), moves AS (
  INSERT INTO stock_moves (id, sale, product, quantity, why, order_id)
  SELECT $1 || ':' || product, $2, product, quantity, $4, $1 FROM lines
), told AS (
  INSERT INTO ledger (at, sale, product, order_id, verb, quantity, amount, currency, epoch, event_id, reason)
  SELECT now(), $2, product, $1, 'restocked', quantity, quantity * unit_amount, currency,
         (SELECT shop_epoch FROM sales WHERE id = $2), $1 || ':' || product, $4
    FROM lines
)
UPDATE sale_buyers SET bought = bought - (SELECT sum(quantity) FROM lines) WHERE sale = $2 AND buyer = $3;

-- refund_write --
-- What is given back of its payment, under the key that the provider will be asked with; nothing where it cost nothing.
WITH paid AS (
  UPDATE payments SET state = CASE WHEN $2 > 0 THEN 'refunding' ELSE 'refunded' END
   WHERE order_id = $1 AND state = 'captured'
  RETURNING id, currency)
INSERT INTO refunds (id, payment_id, amount, currency, reason)
SELECT id || '-refund', id, $2, currency, $3 FROM paid WHERE $2 > 0;

-- return_ask --
-- A delivered order that its buyer sends back.
UPDATE orders SET state = 'return_requested', return_requested_at = now(), updated_at = now()
 WHERE id = $1 AND state = 'delivered'
RETURNING id;

-- restocks_open --
-- Units that Redis has not got back yet.
SELECT m.id AS move, m.sale, m.product, m.quantity, o.buyer
  FROM stock_moves m JOIN orders o ON o.id = m.order_id
 WHERE m.applied_epoch IS NULL AND m.order_id IS NOT NULL
 ORDER BY m.created_at
 LIMIT $1;

-- restocks_close --
-- They are back, in the keys of that epoch.
UPDATE stock_moves SET applied_epoch = $2 WHERE id = ANY($1::text[]) AND applied_epoch IS NULL RETURNING id;

-- orders_prepare --
-- Confirmed long enough on the shop's clock; from here on it is known when an order for a visit ships.
WITH due AS (
  SELECT id, sale FROM orders
   WHERE state = 'confirmed' AND claim = 'sold'
     AND confirmed_at <= moment_of(shop_now() - make_interval(secs => $1::bigint / 1000.0))
   ORDER BY confirmed_at
   LIMIT $2
     FOR UPDATE SKIP LOCKED)
UPDATE orders o
   SET state = 'preparing', updated_at = now(),
       ships_on = (SELECT max(s.visit_on) + 1 FROM order_items i JOIN sale_items s ON s.product = i.product
                    WHERE i.order_id = due.id AND s.sale = due.sale)
  FROM due
 WHERE o.id = due.id AND o.state = 'confirmed'
RETURNING o.id;

-- orders_move_on --
-- From one state to the next, once $3 ms have passed since they were confirmed; for a visit, $4 ms since the day on which
-- its order ships. Whoever locks an order first moves it, or cancels it; the other one finds another state. Of a cancelled
-- sale nothing ships but what has let somebody in, which is not cancelled.
WITH others AS (
  SELECT id FROM orders
   WHERE state = $1 AND ships_on IS NULL AND ($1 <> 'preparing' OR NOT is_called_off(sale) OR is_redeemed(id))
     AND confirmed_at <= moment_of(shop_now() - make_interval(secs => $3::bigint / 1000.0))
   ORDER BY confirmed_at
   LIMIT $5
     FOR UPDATE SKIP LOCKED
), visits AS (
  SELECT id FROM orders
   WHERE state = $1 AND ($1 <> 'preparing' OR NOT is_called_off(sale) OR is_redeemed(id))
     AND ships_on <= ((shop_now() - make_interval(secs => $4::bigint / 1000.0)) AT TIME ZONE 'UTC')::date
   ORDER BY ships_on
   LIMIT $5
     FOR UPDATE SKIP LOCKED
), due AS (
  SELECT id FROM others UNION ALL SELECT id FROM visits
)
UPDATE orders o
   SET state = $2, updated_at = now(),
       delivered_at = CASE WHEN $2 = 'delivered' THEN now() ELSE o.delivered_at END,
       ended_at = CASE WHEN $2 = 'completed' THEN now() ELSE o.ended_at END
  FROM due
 WHERE o.id = due.id AND o.state = $1
RETURNING o.id;

-- returns_due --
-- Returns that were asked for long enough ago.
SELECT id FROM orders
 WHERE state = 'return_requested'
   AND return_requested_at <= moment_of(shop_now() - make_interval(secs => $1::bigint / 1000.0))
 ORDER BY return_requested_at
 LIMIT $2;

-- sale_standing --
-- Whether a sale has ended, and whether it was cancelled.
SELECT s.cancelled_at, s.cancel_done_at, s.cancel_key, s.cancel_digest,
       s.closed_at IS NOT NULL OR s.closes_at <= shop_now() AS is_closed
  FROM sales s WHERE s.id = $1 AND s.id <> '_shop';

-- orders_by_part --
-- Orders of a sale and what was paid for them, by what a cancellation does with them.
SELECT CASE WHEN state IN ('confirmed', 'preparing') AND is_redeemed(id) THEN 'kept'
            WHEN state IN ('confirmed', 'preparing') THEN 'open'
            WHEN state = 'cancelled' THEN 'cancelled'
            WHEN state IN ('reserved', 'confirming') THEN 'waiting'
            ELSE 'kept' END AS part,
       currency, count(*)::int AS orders, sum(amount)::bigint AS amount
  FROM orders
 WHERE sale = $1
   AND (state IN ('confirmed', 'preparing', 'reserved', 'confirming', 'shipped', 'delivered', 'completed', 'return_requested')
        OR state = 'cancelled' AND reason = $2)
 GROUP BY 1, 2 ORDER BY 1, 2;

-- refunded --
-- What has come back to buyers of a cancelled sale.
SELECT r.currency, sum(r.amount)::bigint AS amount
  FROM orders o JOIN payments p ON p.order_id = o.id JOIN refunds r ON r.payment_id = p.id
 WHERE o.sale = $1 AND r.reason = $2 AND r.state = 'done'
 GROUP BY 1 ORDER BY 1;

-- sales_take --
-- Cancelled sales that are to be looked at, ours for this long; nobody else cancels any of their orders meanwhile.
UPDATE sales SET cancel_next_at = now() + make_interval(secs => $1::bigint / 1000.0)
 WHERE id IN (SELECT id FROM sales
               WHERE cancelled_at IS NOT NULL AND cancel_next_at <= now()
               ORDER BY cancel_next_at LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING id, cancel_done_at IS NOT NULL AS was_done;

-- orders_to_cancel --
-- The oldest that can be cancelled.
SELECT id FROM orders
 WHERE sale = $1 AND state IN ('confirmed', 'preparing') AND claim = 'sold' AND NOT is_redeemed(id)
 ORDER BY id LIMIT $2;

-- sale_finish --
-- Nothing of it that is recorded can be cancelled or bought any more. It is looked at again after as long as has passed
-- since it was cancelled, at least a second and at most an hour: an order may have been recorded by then.
UPDATE sales
   SET cancel_done_at = coalesce(cancel_done_at, now()),
       cancel_next_at = now() + least(greatest(now() - cancelled_at, interval '1 second'), interval '1 hour')
 WHERE id = $1
   AND NOT EXISTS (SELECT FROM orders WHERE sale = $1 AND state IN ('reserved', 'confirming'))
   AND NOT EXISTS (SELECT FROM orders WHERE sale = $1 AND state IN ('confirmed', 'preparing') AND NOT is_redeemed(id))
RETURNING id;

-- sale_resume --
-- Something of a sale that was done was recorded since.
UPDATE sales SET cancel_done_at = NULL WHERE id = $1;

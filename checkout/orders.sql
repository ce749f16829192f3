-- order_get --
-- One order as the record has it, with its items and every try to pay.
SELECT o.id AS "order", o.sale, o.buyer, coalesce(o.turn, '') AS turn, o.lane, o.epoch, o.state, o.claim, o.reason, o.rev,
       o.amount, o.currency, o.address, o.idempotency_key, o.body_digest,
       (extract(epoch FROM o.expires_at) * 1000)::bigint AS expires_at_ms,
       (SELECT coalesce(json_agg(json_build_object(
                 'product', i.product, 'title', i.title, 'quantity', i.quantity, 'unit_amount', i.unit_amount,
                 'list_amount', i.list_amount, 'currency', i.currency) ORDER BY i.product), '[]')
          FROM order_items i WHERE i.order_id = o.id) AS items,
       (SELECT coalesce(json_agg(json_build_object(
                 'payment', p.id, 'provider', p.provider, 'method', p.method, 'state', p.state, 'reason', p.reason,
                 'retryable', p.retryable, 'key', p.idempotency_key, 'digest', p.body_digest,
                 'created_at_ms', (extract(epoch FROM p.created_at) * 1000)::bigint) ORDER BY p.created_at, p.id), '[]')
          FROM payments p WHERE p.order_id = o.id) AS payments
  FROM orders o
 WHERE o.id = $1;

-- order_by_key --
-- The order that a buyer's key made in a sale.
SELECT id FROM orders WHERE buyer = $1 AND sale = $2 AND idempotency_key = $3 ORDER BY id LIMIT 1;

-- orders_of_buyer --
-- A page of one buyer's orders, newest first, after the id of the page before.
SELECT o.id AS "order", o.sale, o.buyer, coalesce(o.turn, '') AS turn, o.lane, o.epoch, o.state, o.claim, o.reason, o.rev,
       o.amount, o.currency, o.address, o.idempotency_key, o.body_digest,
       (extract(epoch FROM o.expires_at) * 1000)::bigint AS expires_at_ms,
       (SELECT coalesce(json_agg(json_build_object(
                 'product', i.product, 'title', i.title, 'quantity', i.quantity, 'unit_amount', i.unit_amount,
                 'list_amount', i.list_amount, 'currency', i.currency) ORDER BY i.product), '[]')
          FROM order_items i WHERE i.order_id = o.id) AS items,
       (SELECT coalesce(json_agg(json_build_object(
                 'payment', p.id, 'provider', p.provider, 'method', p.method, 'state', p.state, 'reason', p.reason,
                 'retryable', p.retryable, 'key', p.idempotency_key, 'digest', p.body_digest,
                 'created_at_ms', (extract(epoch FROM p.created_at) * 1000)::bigint) ORDER BY p.created_at, p.id), '[]')
          FROM payments p WHERE p.order_id = o.id) AS payments
  FROM orders o
 WHERE o.buyer = $1
   AND ($2::text IS NULL OR o.id < $2) AND ($3::text IS NULL OR o.state = $3) AND ($4::text IS NULL OR o.sale = $4)
   AND ($5::timestamptz IS NULL OR o.reserved_at >= $5) AND ($6::timestamptz IS NULL OR o.reserved_at < $6)
 ORDER BY o.id DESC
 LIMIT $7;

-- orders_of_sale --
-- A page of one sale's orders, newest first, after the id of the page before.
SELECT o.id AS "order", o.sale, o.buyer, coalesce(o.turn, '') AS turn, o.lane, o.epoch, o.state, o.claim, o.reason, o.rev,
       o.amount, o.currency, o.address, o.idempotency_key, o.body_digest,
       (extract(epoch FROM o.expires_at) * 1000)::bigint AS expires_at_ms,
       (SELECT coalesce(json_agg(json_build_object(
                 'product', i.product, 'title', i.title, 'quantity', i.quantity, 'unit_amount', i.unit_amount,
                 'list_amount', i.list_amount, 'currency', i.currency) ORDER BY i.product), '[]')
          FROM order_items i WHERE i.order_id = o.id) AS items,
       (SELECT coalesce(json_agg(json_build_object(
                 'payment', p.id, 'provider', p.provider, 'method', p.method, 'state', p.state, 'reason', p.reason,
                 'retryable', p.retryable, 'key', p.idempotency_key, 'digest', p.body_digest,
                 'created_at_ms', (extract(epoch FROM p.created_at) * 1000)::bigint) ORDER BY p.created_at, p.id), '[]')
          FROM payments p WHERE p.order_id = o.id) AS payments
  FROM orders o
 WHERE o.sale = $1
   AND ($2::text IS NULL OR o.id < $2) AND ($3::text IS NULL OR o.state = $3) AND ($4::text IS NULL OR o.buyer = $4)
   AND ($5::timestamptz IS NULL OR o.reserved_at >= $5) AND ($6::timestamptz IS NULL OR o.reserved_at < $6)
 ORDER BY o.id DESC
 LIMIT $7;

-- refund_open --
-- Before money is given back: one refund a payment, whoever finds out first. Answers whether the payment still holds an
-- open claim; no row back: the record does not know it.
INSERT INTO refunds (id, payment_id, amount, currency, reason)
SELECT p.id || '-refund', p.id, $2, $3, $4 FROM payments p WHERE p.id = $1
ON CONFLICT (payment_id) DO UPDATE SET reason = refunds.reason
RETURNING (SELECT p.state = 'pending' AND o.claim = 'open'
             FROM payments p JOIN orders o ON o.id = p.order_id WHERE p.id = $1) AS is_claimed;

-- refund_close --
-- The provider says that it is done. Together with the payment, whose last state this is.
WITH closed AS (
  UPDATE refunds SET state = 'done', done_at = now(), drive_until = NULL
   WHERE id = $1 AND state = 'pending'
  RETURNING payment_id)
UPDATE payments SET state = 'refunded', instrument = NULL, driver = NULL, drive_until = NULL,
       ended_at = coalesce(ended_at, now())
  FROM closed
 WHERE payments.id = closed.payment_id
RETURNING payments.id;

-- refusal_settle --
-- The units of a refused claim are where they belong.
UPDATE refusals SET settled_at = now() WHERE order_id = $1 AND event_id = $2 AND settled_at IS NULL;

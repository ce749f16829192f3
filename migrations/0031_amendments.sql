-- Orders can be amended before they are paid for: which of its documents an order's row and lines are.

ALTER TABLE orders ADD COLUMN revision int NOT NULL DEFAULT 1;

-- As before, and the revision.
CREATE OR REPLACE VIEW order_details AS
SELECT o.id AS "order", o.sale, o.buyer, coalesce(o.turn, '') AS turn, o.lane, o.epoch, o.state, o.claim, o.reason, o.rev,
       o.amount, o.currency, o.address, o.idempotency_key, o.body_digest, o.reserved_at,
       (extract(epoch FROM o.expires_at) * 1000)::bigint AS expires_at_ms,
       (SELECT coalesce(json_agg(json_build_object(
                 'product', i.product, 'title', i.title, 'quantity', i.quantity, 'unit_amount', i.unit_amount,
                 'list_amount', i.list_amount, 'currency', i.currency) ORDER BY i.product), '[]')
          FROM order_items i WHERE i.order_id = o.id) AS items,
       (SELECT coalesce(json_agg(json_build_object(
                 'payment', p.id, 'provider', p.provider, 'method', p.method, 'state', p.state, 'reason', p.reason,
                 'retryable', p.retryable, 'key', p.idempotency_key, 'digest', p.body_digest, 'currency', p.currency,
                 'refund', (SELECT r.amount FROM refunds r WHERE r.payment_id = p.id),
                 'created_at_ms', (extract(epoch FROM p.created_at) * 1000)::bigint) ORDER BY p.created_at, p.id), '[]')
          FROM payments p WHERE p.order_id = o.id) AS payments,
       o.revision
  FROM orders o;

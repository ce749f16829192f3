-- order_get --
-- One order as the record has it, with its items and every try to pay.
SELECT * FROM order_details WHERE "order" = $1;

-- order_by_key --
-- The order that a buyer's key made in a sale.
SELECT * FROM order_details WHERE buyer = $1 AND sale = $2 AND idempotency_key = $3 ORDER BY "order" LIMIT 1;

-- orders_of_buyer --
-- A page of one buyer's orders, newest first, after the id of the page before.
SELECT * FROM order_details
 WHERE buyer = $1
   AND ($2::text IS NULL OR "order" < $2) AND ($3::text IS NULL OR state = $3) AND ($4::text IS NULL OR sale = $4)
   AND ($5::timestamptz IS NULL OR reserved_at >= $5) AND ($6::timestamptz IS NULL OR reserved_at < $6)
 ORDER BY "order" DESC
 LIMIT $7;

-- orders_of_sale --
-- A page of one sale's orders, newest first, after the id of the page before.
SELECT * FROM order_details
 WHERE sale = $1
   AND ($2::text IS NULL OR "order" < $2) AND ($3::text IS NULL OR state = $3) AND ($4::text IS NULL OR buyer = $4)
   AND ($5::timestamptz IS NULL OR reserved_at >= $5) AND ($6::timestamptz IS NULL OR reserved_at < $6)
 ORDER BY "order" DESC
 LIMIT $7;

-- refund_open --
-- Before money is given back: one refund a payment, whoever finds out first, and that one's amount. Answers whether the
-- payment still holds an open claim; no row back: the record does not know it.
INSERT INTO refunds (id, payment_id, amount, currency, reason)
SELECT p.id || '-refund', p.id, $2, $3, $4 FROM payments p WHERE p.id = $1
ON CONFLICT (payment_id) DO UPDATE SET reason = refunds.reason
RETURNING refunds.amount, refunds.currency,
          (SELECT p.state = 'pending' AND o.claim = 'open'
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

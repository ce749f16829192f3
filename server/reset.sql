-- A sale as it was before anybody came: for demos and trials. Everything bought in it is forgotten.

-- sale_fence --
-- From here on nothing of the epochs before is recorded, and the line and the stock are loaded anew. No row: no such sale.
UPDATE sales
   SET opened_at = NULL, closed_at = NULL, draining_at = NULL, cancelled_at = NULL, cancel_key = NULL, cancel_digest = NULL,
       cancel_next_at = NULL, cancel_done_at = NULL, message = NULL, paused_by = '{}',
       line_epoch = line_epoch + 1, shop_epoch = shop_epoch + 1, updated_at = now()
 WHERE id = $1 AND id <> '_shop'
RETURNING id;

-- money_in_flight --
-- Payments that may still be charged or given back.
SELECT count(*) FROM payments p JOIN orders o ON o.id = p.order_id LEFT JOIN refunds r ON r.payment_id = p.id
 WHERE o.sale = $1 AND (p.state IN ('pending', 'refunding') OR r.state = 'pending');

-- refunds_delete --
-- With the payments they belong to.
DELETE FROM refunds r USING payments p, orders o WHERE r.payment_id = p.id AND p.order_id = o.id AND o.sale = $1;

-- payments_delete --
-- Every try to pay.
DELETE FROM payments p USING orders o WHERE p.order_id = o.id AND o.sale = $1;

-- moves_delete --
-- Units that came back from its orders.
DELETE FROM stock_moves WHERE sale = $1 AND order_id IS NOT NULL;

-- notices_delete --
-- What its buyers were told.
DELETE FROM notices WHERE sale = $1;

-- requests_delete --
-- What was asked for after the sale.
DELETE FROM order_requests r USING orders o WHERE r.order_id = o.id AND o.sale = $1;

-- entries_delete --
-- The codes of its entries.
DELETE FROM entries e USING orders o WHERE e.order_id = o.id AND o.sale = $1;

-- order_items_delete --
-- What was ordered.
DELETE FROM order_items i USING orders o WHERE i.order_id = o.id AND o.sale = $1;

-- refusals_delete --
-- Claims that were refused.
DELETE FROM refusals WHERE sale = $1;

-- orders_delete --
-- Every order.
DELETE FROM orders WHERE sale = $1;

-- ledger_delete --
-- The account of its units.
DELETE FROM ledger WHERE sale = $1;

-- sale_buyers_delete --
-- Who bought how many.
DELETE FROM sale_buyers WHERE sale = $1;

-- admissions_delete --
-- Whom the line let in.
DELETE FROM admissions WHERE sale = $1;

-- places_gone_delete --
-- Who is gone from the line.
DELETE FROM places_gone WHERE sale = $1;

-- line_documents_delete --
-- How far the line had come.
DELETE FROM line_documents WHERE sale = $1;

-- line_seconds_delete --
-- What the line looked like.
DELETE FROM line_seconds WHERE sale = $1;

-- shown_waits_delete --
-- Whether the waits shown in it came true.
DELETE FROM shown_waits WHERE sale = $1;

-- watermarks_delete --
-- How far streams were read whose epochs are over.
DELETE FROM watermarks WHERE sale = $1;

-- poison_delete --
-- Events nobody could read.
DELETE FROM poison WHERE sale = $1;

-- items_reset --
-- Nothing is claimed or sold.
UPDATE sale_items SET claimed = 0, sold = 0 WHERE sale = $1;

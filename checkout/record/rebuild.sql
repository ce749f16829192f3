-- rebuild_alone --
-- One rebuilder a sale; the lock is the transaction's, so it cannot outlive its session, behind a pooler either.
SELECT pg_try_advisory_xact_lock(hashtextextended('onsale rebuild ' || $1, 0)) AS is_ours,
       set_config('idle_in_transaction_session_timeout', '120s', true);

-- fence_settings --
-- A rebuilder that stops inside its fence gives the sale's rows back; its epoch has no keys, so the next one starts anew.
SELECT set_config('idle_in_transaction_session_timeout', '10s', true), set_config('lock_timeout', '5s', true),
       set_config('synchronous_commit', 'on', true);

-- epoch_of --
-- The shop's epoch as Postgres has it now.
SELECT shop_epoch FROM sales WHERE id = $1;

-- epoch_raise --
-- The fence: from here on nothing of the epoch that the caller saw is recorded. No row back: somebody else has fenced it.
UPDATE sales SET shop_epoch = shop_epoch + 1, updated_at = now() WHERE id = $1 AND shop_epoch = $2 RETURNING shop_epoch;

-- watermarks_close --
-- Waits for a batch in flight; the next one finds the stream closed.
UPDATE watermarks SET closed_at = now()
 WHERE sale = $1 AND stream IN ('money', 'holdings') AND closed_at IS NULL;

-- watermarks_begin --
-- The streams of the new epoch, whatever ids they will carry.
INSERT INTO watermarks (sale, stream, epoch) VALUES ($1, 'money', $2), ($1, 'holdings', $2);

-- watermarks_continue --
-- The streams go on under the next epoch with the ids they have. Waits for a batch in flight, as above; answers how far
-- each is recorded.
WITH closed AS (
  UPDATE watermarks SET closed_at = now()
   WHERE sale = $1 AND stream IN ('money', 'holdings') AND closed_at IS NULL
  RETURNING stream, upto
)
INSERT INTO watermarks (sale, stream, epoch, upto) SELECT $1, stream, $2, upto FROM closed RETURNING stream, upto;

-- items_lock --
-- Every unit of the sale, and those sold.
SELECT product, stock, sold FROM sale_items WHERE sale = $1 ORDER BY product FOR UPDATE;

-- moves_count --
-- Stock moves that the counters hold already: never to be applied to the new keys. Units asked for are not among them:
-- nobody has given them, and the new keys are asked anew.
UPDATE stock_moves SET applied_epoch = $2 WHERE sale = $1 AND applied_epoch IS NULL AND state = 'counted';

-- moves_of --
-- All moves of the sale: a mover that repeats one finds it applied.
SELECT id FROM stock_moves WHERE sale = $1 AND state = 'counted' ORDER BY id;

-- refusals_settle --
-- The new keys are made without the refused claims: their units need not be put anywhere.
UPDATE refusals SET settled_at = now() WHERE sale = $1 AND settled_at IS NULL;

-- orders_live --
-- Orders that scripts may still be asked about: held, claimed, or confirmed within a day. A hold gets at least a minute
-- from now: it ran on while nobody could buy.
SELECT o.id, o.buyer, coalesce(o.turn, '') AS turn, o.lane, o.claim, o.rev, o.amount, o.currency, o.address,
       o.idempotency_key, o.body_digest, o.revision, s.limit_per_buyer,
       (extract(epoch FROM o.reserved_at) * 1000)::bigint AS reserved_ms,
       (extract(epoch FROM greatest(o.expires_at, clock_timestamp() + interval '60 seconds')) * 1000)::bigint AS expires_ms,
       coalesce((extract(epoch FROM o.confirmed_at) * 1000)::bigint, 0) AS confirmed_ms,
       (SELECT json_agg(json_build_object(
                 'product', i.product, 'title', i.title, 'quantity', i.quantity, 'unit_amount', i.unit_amount,
                 'list_amount', i.list_amount, 'currency', i.currency) ORDER BY i.product)
          FROM order_items i WHERE i.order_id = o.id)::text AS items,
       coalesce((SELECT json_agg(json_build_array(p.id, p.idempotency_key, p.body_digest, p.state, coalesce(p.reason, ''))
                                 ORDER BY p.created_at, p.id)
                   FROM payments p WHERE p.order_id = o.id), '[]')::text AS attempts
  FROM orders o JOIN sales s ON s.id = o.sale
 WHERE o.sale = $1
   AND (o.claim = 'open' OR (o.claim IN ('none', 'released') AND o.state = 'reserved')
        OR (o.claim = 'sold' AND o.confirmed_at > now() - interval '1 day'))
 ORDER BY o.id;

-- bought_of --
-- Units sold per buyer.
SELECT o.buyer, sum(i.quantity)::bigint AS units
  FROM orders o JOIN order_items i ON i.order_id = o.id
 WHERE o.sale = $1 AND o.claim = 'sold'
 GROUP BY o.buyer;

-- turns_over --
-- Turns that have bought, and those that were closed while their passes may still be good; the newest first.
SELECT turn, state FROM (
  SELECT turn, 'spent' AS state, confirmed_at AS ended_at FROM orders
   WHERE sale = $1 AND turn IS NOT NULL AND (claim = 'sold' OR state IN ('cancelled', 'returned'))
  UNION ALL
  SELECT t.turn, CASE t.why WHEN 'revoked' THEN 'revoked' ELSE 'closed' END, t.closed_at FROM turns_closed t
   WHERE t.sale = $1
     AND NOT EXISTS (SELECT FROM orders o
                      WHERE o.sale = t.sale AND o.turn = t.turn
                        AND (o.claim = 'sold' OR o.state IN ('cancelled', 'returned')))
) AS over ORDER BY ended_at DESC NULLS FIRST;

-- figures_of --
-- What the shop's counters must say once every event is recorded; refused claims and moves on their way are told apart.
SELECT i.product, i.stock, i.claimed, i.sold,
       coalesce((SELECT sum(oi.quantity) FROM orders o JOIN order_items oi ON oi.order_id = o.id
                  WHERE o.sale = i.sale AND oi.product = i.product AND o.state = 'reserved'), 0)::bigint AS held,
       coalesce((SELECT sum(m.quantity) FROM stock_moves m
                  WHERE m.sale = i.sale AND m.product = i.product AND m.applied_epoch IS NULL AND m.order_id IS NULL
                    AND m.state = 'counted'),
                0)::bigint AS moving,
       coalesce((SELECT sum(m.quantity) FROM stock_moves m
                  WHERE m.sale = i.sale AND m.product = i.product AND m.applied_epoch IS NULL AND m.order_id IS NOT NULL),
                0)::bigint AS returned,
       (SELECT count(*) FROM refusals r WHERE r.sale = i.sale AND r.settled_at IS NULL) AS unsettled
  FROM sale_items i
 WHERE i.sale = $1;

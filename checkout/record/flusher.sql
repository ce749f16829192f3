-- watermarks_make --
-- A stream of the present epoch that was never recorded starts at 0-0. An older epoch's open row keeps its place: it is
-- closed by whoever fences that epoch.
INSERT INTO watermarks (sale, stream, epoch)
SELECT s.id, $1, CASE WHEN $1 = 'admissions' THEN s.line_epoch ELSE s.shop_epoch END
  FROM sales s
 WHERE CASE WHEN $1 = 'admissions' THEN s.line_epoch ELSE s.shop_epoch END > 0
   AND NOT EXISTS (SELECT FROM watermarks w WHERE w.sale = s.id AND w.stream = $1 AND w.closed_at IS NULL)
ON CONFLICT DO NOTHING;

-- watermarks_open --
-- Where each sale's stream is to be read from, and whether that epoch is still the sale's.
SELECT w.sale, w.epoch, w.upto,
       w.epoch < CASE WHEN $1 = 'admissions' THEN s.line_epoch ELSE s.shop_epoch END AS is_past
  FROM watermarks w JOIN sales s ON s.id = w.sale
 WHERE w.stream = $1 AND w.closed_at IS NULL;

-- watermark_of --
-- One stream of one sale.
SELECT epoch, upto FROM watermarks WHERE sale = $1 AND stream = $2 AND closed_at IS NULL;

-- watermark_close --
-- The line's stream of a past epoch was read to its end: nothing of it is recorded any more.
UPDATE watermarks SET closed_at = now()
 WHERE sale = $1 AND stream = 'admissions' AND epoch = $2 AND upto = $3 AND closed_at IS NULL;

-- watermark_move --
-- Whoever moves the watermark from where it read is the writer of the batch; no row back means another is, or the epoch
-- was fenced off. The transaction carries its own guards, set before its first lock: a stopped writer's locks end with
-- its session after two seconds, a blocked one gives up before that, and COMMIT answers only once the rows are on disk
-- whatever the session's default. Tables grow from nothing to a hundred thousand rows in the first minute of a sale, and
-- a plan cached while they were one page would read them whole for each order until the next ANALYZE: a look into an index
-- for each row of the batch, planned once, never a table or an index read from end to end.
-- Answers the limit that the sale's claims are judged by.
WITH guards AS MATERIALIZED (
  SELECT set_config('idle_in_transaction_session_timeout', '2s', true), set_config('lock_timeout', '1s', true),
         set_config('synchronous_commit', 'on', true), set_config('enable_seqscan', 'off', true),
         set_config('enable_mergejoin', 'off', true), set_config('plan_cache_mode', 'force_generic_plan', true)
)
UPDATE watermarks SET upto = $5, updated_at = now()
  FROM guards
 WHERE sale = $1 AND stream = $2 AND epoch = $3 AND upto = $4 AND closed_at IS NULL
RETURNING (SELECT limit_per_buyer FROM sales WHERE id = $1) AS limit_per_buyer;

-- orders_lock_ids --
-- The orders of a batch of holdings, which asks nothing of them. Money and holdings lock in the same order: neither waits
-- for a lock that the other one cannot give back.
SELECT id FROM orders WHERE id = ANY($1::text[]) ORDER BY id FOR UPDATE;

-- standing_lock --
-- What a batch of money is judged by, locked in one order for every writer: the orders it names, with their lines and
-- tries to pay; its items; its buyers. And its turns that have bought or are buying. One statement, because a buyer
-- waits for each round trip: items, buyers and turns are those of the orders known, and those that its claims bring.
WITH known AS MATERIALIZED (
  SELECT o.id, o.buyer, coalesce(o.turn, '') AS turn, o.amount, o.currency, o.state, o.claim, o.rev, o.claim_rev, o.reason,
         o.revision
    FROM orders o WHERE o.id = ANY($2::text[]) ORDER BY o.id FOR UPDATE OF o
), items AS (
  SELECT product, stock, claimed, sold FROM sale_items
   WHERE sale = $1
     AND product = ANY($3::text[] || ARRAY(SELECT i.product FROM order_items i JOIN known k ON k.id = i.order_id))
   ORDER BY product FOR UPDATE
), buyers AS (
  SELECT buyer, bought FROM sale_buyers WHERE sale = $1 AND buyer = ANY($4::text[] || ARRAY(SELECT buyer FROM known))
   ORDER BY buyer FOR UPDATE
)
SELECT coalesce((
         SELECT json_agg(json_build_object(
                  'order', k.id, 'buyer', k.buyer, 'turn', k.turn, 'amount', k.amount, 'currency', k.currency,
                  'state', k.state, 'claim', k.claim, 'rev', k.rev, 'claim_rev', k.claim_rev, 'reason', k.reason,
                  'revision', k.revision,
                  'items', coalesce((
                    SELECT json_agg(json_build_object(
                             'product', i.product, 'title', i.title, 'quantity', i.quantity,
                             'unit_amount', i.unit_amount, 'list_amount', i.list_amount, 'currency', i.currency)
                             ORDER BY i.product)
                      FROM order_items i WHERE i.order_id = k.id), '[]'),
                  'attempts', coalesce((
                    SELECT json_agg(json_build_array(p.id, p.order_id, p.state, p.amount, p.currency, p.reason, p.retryable))
                      FROM payments p WHERE p.order_id = k.id), '[]'))) FROM known k), '[]')::text AS orders,
       coalesce((SELECT json_agg(json_build_array(product, stock, claimed, sold)) FROM items), '[]')::text AS items,
       coalesce((SELECT json_agg(json_build_array(buyer, bought)) FROM buyers), '[]')::text AS buyers,
       coalesce((SELECT json_agg(json_build_array(turn, id)) FROM orders
                  WHERE sale = $1 AND turn = ANY($5::text[] || ARRAY(SELECT turn FROM known WHERE turn <> ''))
                    AND claim IN ('open', 'sold')), '[]')::text AS turns;

-- money_write --
-- All rows of a batch of money, in one statement because a buyer waits for each round trip. No two parts touch one row.
--   claimed   Orders that this batch brings. Where a batch of holdings brought one in the same moment, the claim is added
--             to it, and whoever has the newer rev describes its state.
--   lines     Their lines, of those that were never amended; what is known stays as it was priced.
--   tried     Tries to pay that this batch brings. The driver's time runs from the moment the claim is recorded, on this
--             clock.
--   changed   Orders that were known before; their rows are locked by this batch.
--   ended     Tries that ended: what they were paid with is not needed any more, and is erased.
--   moved     The counters of items: the constraint is the last line, not the judge.
--   bought    The units of buyers: rows that exist are locked by this batch, new ones have no other writer.
--   written   The ledger.
-- Answers how many orders there are now as the batch has them.
WITH claimed AS (
  INSERT INTO orders AS o (id, sale, buyer, turn, lane, epoch, state, claim, reason, rev, claim_rev, amount, currency,
                           address, idempotency_key, body_digest, reserved_at, expires_at, confirmed_at, ended_at,
                           revision)
  SELECT n.id, $1, n.buyer, nullif(n.turn, ''), n.lane, $2, n.state, n.claim, n.reason, n.rev, n.claim_rev, n.amount,
         n.currency, n.address, n.idempotency_key, n.body_digest, to_timestamp(n.reserved_ms / 1000.0),
         to_timestamp(n.expires_ms / 1000.0), to_timestamp(n.confirmed_ms / 1000.0), to_timestamp(n.ended_ms / 1000.0),
         n.revision
    FROM unnest($4::text::text[], $5::text::text[], $6::text::text[], $7::text::text[], $8::text::text[],
                $9::text::text[], $10::text::text[], $11::int[], $12::int[], $13::bigint[], $14::text::text[],
                $15::bytea[], $16::text::text[], $17::text::text[], $18::bigint[], $19::bigint[], $20::bigint[],
                $21::bigint[], $22::int[])
         AS n (id, buyer, turn, lane, state, claim, reason, rev, claim_rev, amount, currency, address, idempotency_key,
               body_digest, reserved_ms, expires_ms, confirmed_ms, ended_ms, revision)
      ON CONFLICT (id) DO UPDATE
     SET claim = excluded.claim, claim_rev = excluded.claim_rev, confirmed_at = excluded.confirmed_at,
         state = CASE WHEN o.rev < excluded.rev THEN excluded.state ELSE o.state END,
         reason = CASE WHEN o.rev < excluded.rev THEN excluded.reason ELSE o.reason END,
         expires_at = CASE WHEN o.rev < excluded.rev THEN excluded.expires_at ELSE o.expires_at END,
         ended_at = CASE WHEN o.rev < excluded.rev THEN excluded.ended_at ELSE o.ended_at END,
         -- Holdings bring an order as it was first reserved.
         amount = excluded.amount, currency = excluded.currency, address = excluded.address,
         revision = excluded.revision, rev = greatest(o.rev, excluded.rev), updated_at = now()
   WHERE o.claim_rev < excluded.claim_rev
  RETURNING id
), lines AS (
  INSERT INTO order_items (order_id, product, title, quantity, unit_amount, list_amount, currency)
  SELECT * FROM unnest($23::text::text[], $24::text::text[], $25::text::text[], $26::int[], $27::bigint[],
                       $28::bigint[], $29::text::text[])
  ON CONFLICT (order_id, product) DO NOTHING
), tried AS (
  INSERT INTO payments (id, order_id, provider, method, state, reason, retryable, amount, currency, idempotency_key,
                        body_digest, instrument, driver, drive_until, created_at, ended_at)
  SELECT n.id, n.order_id, n.provider, n.method, n.state, n.reason, n.retryable, n.amount, n.currency,
         n.idempotency_key, n.body_digest, n.instrument, n.driver, now() + make_interval(secs => n.drive_ms / 1000.0),
         to_timestamp(n.created_ms / 1000.0), to_timestamp(n.ended_ms / 1000.0)
    FROM unnest($30::text::text[], $31::text::text[], $32::text::text[], $33::text::text[], $34::text::text[],
                $35::text::text[], $36::boolean[], $37::bigint[], $38::text::text[], $39::text::text[],
                $40::text::text[], $41::bytea[], $42::text::text[], $43::bigint[], $44::bigint[], $45::bigint[])
         AS n (id, order_id, provider, method, state, reason, retryable, amount, currency, idempotency_key, body_digest,
               instrument, driver, drive_ms, created_ms, ended_ms)
), changed AS (
  UPDATE orders AS o
     SET claim = n.claim, claim_rev = n.claim_rev, state = n.state, rev = n.rev, reason = n.reason,
         expires_at = coalesce(to_timestamp(n.expires_ms / 1000.0), o.expires_at),
         confirmed_at = coalesce(to_timestamp(n.confirmed_ms / 1000.0), o.confirmed_at),
         ended_at = coalesce(to_timestamp(n.ended_ms / 1000.0), o.ended_at), updated_at = now()
    FROM unnest($46::text::text[], $47::text::text[], $48::int[], $49::text::text[], $50::int[], $51::text::text[],
                $52::bigint[], $53::bigint[], $54::bigint[])
         AS n (id, claim, claim_rev, state, rev, reason, expires_ms, confirmed_ms, ended_ms)
   WHERE o.id = n.id AND o.claim_rev < n.claim_rev
  RETURNING o.id
), ended AS (
  UPDATE payments AS p
     SET state = n.state, reason = n.reason, retryable = n.retryable, instrument = NULL,
         ended_at = to_timestamp(n.ended_ms / 1000.0)
    FROM unnest($55::text::text[], $56::text::text[], $57::text::text[], $58::boolean[], $59::bigint[])
         AS n (id, state, reason, retryable, ended_ms)
   WHERE p.id = n.id
), moved AS (
  UPDATE sale_items AS i SET claimed = i.claimed + n.claimed, sold = i.sold + n.sold
    FROM unnest($60::text::text[], $61::bigint[], $62::bigint[]) AS n (product, claimed, sold)
   WHERE i.sale = $1 AND i.product = n.product
), bought AS (
  INSERT INTO sale_buyers AS b (sale, buyer, bought, bought_max)
  SELECT $1, n.buyer, n.bought, $3 FROM unnest($63::text::text[], $64::int[]) AS n (buyer, bought)
      ON CONFLICT (sale, buyer) DO UPDATE
     SET bought = excluded.bought, bought_max = greatest(b.bought_max, excluded.bought_max)
), written AS (
  INSERT INTO ledger (at, sale, product, order_id, verb, quantity, amount, currency, epoch, event_id, reason)
  SELECT to_timestamp(n.at_ms / 1000.0), $1, n.product, n.order_id, n.verb, n.quantity, n.amount, n.currency, $2,
         n.event_id, n.reason
    FROM unnest($65::bigint[], $66::text::text[], $67::text::text[], $68::text::text[], $69::int[], $70::bigint[],
                $71::text::text[], $72::text::text[], $73::text::text[])
         AS n (at_ms, product, order_id, verb, quantity, amount, currency, event_id, reason)
)
SELECT (SELECT count(*) FROM claimed) + (SELECT count(*) FROM changed) AS orders;

-- orders_hold_insert --
-- Orders that this batch of holdings brings, with their lines. One that money brought first is newer: it only learns when
-- it was reserved, and has its lines.
WITH held AS (
  INSERT INTO orders AS o (id, sale, buyer, turn, lane, epoch, state, rev, amount, currency, address, idempotency_key,
                           body_digest, reserved_at, expires_at, ended_at)
  SELECT n.id, $1, n.buyer, nullif(n.turn, ''), n.lane, $2, n.state, n.rev, n.amount, n.currency, n.address,
         n.idempotency_key, n.body_digest, to_timestamp(n.reserved_ms / 1000.0), to_timestamp(n.expires_ms / 1000.0),
         to_timestamp(n.ended_ms / 1000.0)
    FROM unnest($3::text::text[], $4::text::text[], $5::text::text[], $6::text::text[], $7::text::text[], $8::int[],
                $9::bigint[], $10::text::text[], $11::bytea[], $12::text::text[], $13::text::text[], $14::bigint[],
                $15::bigint[], $16::bigint[])
         AS n (id, buyer, turn, lane, state, rev, amount, currency, address, idempotency_key, body_digest, reserved_ms,
               expires_ms, ended_ms)
      ON CONFLICT (id) DO UPDATE
     SET state = CASE WHEN o.rev < excluded.rev THEN excluded.state ELSE o.state END,
         expires_at = CASE WHEN o.rev < excluded.rev THEN excluded.expires_at ELSE o.expires_at END,
         ended_at = CASE WHEN o.rev < excluded.rev THEN excluded.ended_at ELSE o.ended_at END,
         rev = greatest(o.rev, excluded.rev), reserved_at = least(o.reserved_at, excluded.reserved_at), updated_at = now()
   WHERE o.rev < excluded.rev OR excluded.reserved_at < o.reserved_at
  RETURNING id, revision
)
INSERT INTO order_items (order_id, product, title, quantity, unit_amount, list_amount, currency)
SELECT n.order_id, n.product, n.title, n.quantity, n.unit_amount, n.list_amount, n.currency
  FROM unnest($17::text::text[], $18::text::text[], $19::text::text[], $20::int[], $21::bigint[], $22::bigint[],
              $23::text::text[], $24::int[])
       AS n (order_id, product, title, quantity, unit_amount, list_amount, currency, revision)
  JOIN held ON held.id = n.order_id AND held.revision = n.revision
    ON CONFLICT (order_id, product) DO NOTHING;

-- orders_hold_end --
-- Reservations that ended without money; an older event never overwrites a newer one. Answers every order that exists.
WITH ended AS (
  SELECT * FROM unnest($1::text[], $2::text[], $3::int[], $4::bigint[]) AS n (id, state, rev, ended_ms)
), changed AS (
  UPDATE orders AS o
     SET state = n.state, rev = n.rev, ended_at = to_timestamp(n.ended_ms / 1000.0), updated_at = now()
    FROM ended n
   WHERE o.id = n.id AND o.rev < n.rev
)
SELECT o.id FROM orders o JOIN ended n ON n.id = o.id;

-- orders_amend --
-- Orders that were known before this batch, as their newest document has them.
UPDATE orders o
   SET revision = n.revision, amount = n.amount, currency = n.currency, address = n.address, updated_at = now()
  FROM unnest($1::text[], $2::int[], $3::bigint[], $4::text[], $5::bytea[])
       AS n (id, revision, amount, currency, address)
 WHERE o.id = n.id AND o.revision < n.revision;

-- order_items_delete --
-- Lines of amended orders that are no more.
WITH kept AS (
  SELECT n.order_id, array_agg(n.product) AS products
    FROM unnest($1::text[], $2::text[], $3::int[]) AS n (order_id, product, revision)
    JOIN orders o ON o.id = n.order_id AND o.revision = n.revision
   GROUP BY n.order_id)
DELETE FROM order_items i USING kept k WHERE i.order_id = k.order_id AND i.product <> ALL(k.products);

-- order_items_insert --
-- The lines of amended orders whose newest document these are from; a line that is known stays as it was priced, unless it was
-- amended.
INSERT INTO order_items AS i (order_id, product, title, quantity, unit_amount, list_amount, currency)
SELECT n.order_id, n.product, n.title, n.quantity, n.unit_amount, n.list_amount, n.currency
  FROM unnest($1::text[], $2::text[], $3::text[], $4::int[], $5::bigint[], $6::bigint[], $7::text[], $8::int[])
       AS n (order_id, product, title, quantity, unit_amount, list_amount, currency, revision)
  JOIN orders o ON o.id = n.order_id AND o.revision = n.revision
    ON CONFLICT (order_id, product) DO UPDATE
   SET title = excluded.title, quantity = excluded.quantity, unit_amount = excluded.unit_amount,
       list_amount = excluded.list_amount, currency = excluded.currency
 WHERE (i.quantity, i.unit_amount) <> (excluded.quantity, excluded.unit_amount);

-- refusals_insert --
-- Verdicts against a claim: a waiter that missed the announcement finds its own here.
INSERT INTO refusals (order_id, event_id, epoch, sale, reason)
SELECT n.order_id, n.event_id, $2, $1, n.reason FROM unnest($3::text[], $4::text[], $5::text[]) AS n (order_id, event_id, reason)
ON CONFLICT DO NOTHING;

-- refunds_insert --
-- Captures without a claim; the refund's id is its attempt's, so that it is asked for once.
INSERT INTO refunds (id, payment_id, amount, currency, reason)
SELECT n.payment_id || '-refund', n.payment_id, n.amount, n.currency, n.reason
  FROM unnest($1::text[], $2::bigint[], $3::text[], $4::text[]) AS n (payment_id, amount, currency, reason)
ON CONFLICT DO NOTHING;

-- poison_insert --
-- Entries nobody could record, kept whole.
INSERT INTO poison (sale, stream, epoch, event_id, payload, error)
SELECT $1, $2, $3, n.event_id, n.payload::jsonb, n.error
  FROM unnest($4::text[], $5::text[], $6::text[]) AS n (event_id, payload, error)
ON CONFLICT DO NOTHING;

-- admissions_insert --
-- What the line let in. Places travel as text: an array of arrays of different lengths is no array in SQL.
INSERT INTO admissions (sale, epoch, event_id, lane, at, places, returners, rate_milli, burst, active, active_max,
                        passed_over, inversions)
SELECT $1, $2, n.event_id, n.lane, to_timestamp(n.at_ms / 1000.0), n.places::bigint[], n.returners::bigint[], n.rate_milli,
       n.burst, n.active, n.active_max, n.passed_over, n.inversions
  FROM unnest($3::text[], $4::text[], $5::bigint[], $6::text[], $7::text[], $8::bigint[], $9::int[], $10::int[], $11::int[],
              $12::int[], $13::int[])
       AS n (event_id, lane, at_ms, places, returners, rate_milli, burst, active, active_max, passed_over, inversions)
ON CONFLICT DO NOTHING;

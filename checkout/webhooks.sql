-- event_put --
-- Keep a hint about a payment that we have, once. No row back: it was here before, or is about nothing of ours.
INSERT INTO provider_events (provider, event_id, kind, attempt, order_id)
SELECT $1, $2, $3, nullif($4, ''), nullif($5, '')
 WHERE EXISTS (SELECT FROM payments p WHERE p.provider = $1 AND (p.id = $4 OR p.order_id = $5))
ON CONFLICT DO NOTHING
RETURNING event_id;

-- events_take --
-- Hints that are due, each with the payment it is about (of an order's, the newest): whoever gets the row back has it for a
-- while.
WITH due AS (
  SELECT provider, event_id, attempt, order_id
    FROM provider_events
   WHERE handled_at IS NULL AND due_at < now()
   ORDER BY due_at
   LIMIT $2
     FOR UPDATE SKIP LOCKED),
about AS (
  SELECT due.provider, due.event_id, p.id, p.order_id, p.method, p.state, p.amount, p.currency, p.idempotency_key,
         p.instrument, EXISTS (SELECT FROM refunds r WHERE r.payment_id = p.id) AS is_refunding
    FROM due CROSS JOIN LATERAL (
      SELECT p.*
        FROM payments p
       WHERE p.provider = due.provider AND (p.id = due.attempt OR p.order_id = due.order_id)
       ORDER BY p.created_at DESC, p.id DESC
       LIMIT 1) AS p)
UPDATE provider_events e SET due_at = now() + make_interval(secs => $1::bigint / 1000.0), tries = e.tries + 1
  FROM about a
 WHERE e.provider = a.provider AND e.event_id = a.event_id
RETURNING e.provider, e.event_id, e.tries, a.id AS attempt, a.order_id AS "order", a.method, a.state, a.amount, a.currency,
          a.idempotency_key AS key, a.instrument, a.is_refunding;

-- event_done --
-- What came of a hint; the first word stands.
UPDATE provider_events SET handled_at = now(), outcome = $3
 WHERE provider = $1 AND event_id = $2 AND handled_at IS NULL;

-- events_forget --
-- Longer than any provider sends an event again.
DELETE FROM provider_events
 WHERE (provider, event_id) IN (
   SELECT provider, event_id FROM provider_events WHERE handled_at < now() - interval '30 days' LIMIT $1);

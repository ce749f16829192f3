-- attempts_take --
-- Open claims whose driver's time is over, the longest first: whoever gets the row back has the lease, and nobody else
-- calls the provider for it meanwhile.
WITH due AS (
  SELECT p.id
    FROM payments p JOIN orders o ON o.id = p.order_id
   WHERE p.state = 'pending' AND o.claim = 'open' AND p.drive_until < now()
   ORDER BY p.drive_until
   LIMIT $3
     FOR UPDATE OF p SKIP LOCKED)
UPDATE payments p SET driver = $1, drive_until = now() + make_interval(secs => $2::bigint / 1000.0)
  FROM due
 WHERE p.id = due.id
RETURNING p.id AS attempt, p.order_id AS "order", p.provider, p.method, p.idempotency_key AS key, p.instrument,
          (extract(epoch FROM now() - p.created_at) * 1000)::bigint AS age_ms;

-- attempts_wait --
-- The provider has not said what became of an attempt: when its lease may be taken again.
UPDATE payments SET drive_until = now() + make_interval(secs => $3::bigint / 1000.0)
 WHERE id = $1 AND driver = $2 AND state = 'pending';

-- refunds_take --
-- Refunds not known to be done, the oldest first. Never while their payment holds an open claim: then the money may yet buy
-- something.
WITH due AS (
  SELECT r.id
    FROM refunds r JOIN payments p ON p.id = r.payment_id JOIN orders o ON o.id = p.order_id
   WHERE r.state = 'pending' AND NOT (p.state = 'pending' AND o.claim = 'open')
     AND (r.drive_until IS NULL OR r.drive_until < now())
   ORDER BY r.created_at
   LIMIT $2
     FOR UPDATE OF r SKIP LOCKED)
UPDATE refunds r SET drive_until = now() + make_interval(secs => $1::bigint / 1000.0)
  FROM due, payments p
 WHERE r.id = due.id AND p.id = r.payment_id
RETURNING r.id AS refund, r.payment_id AS attempt, p.order_id AS "order", p.amount AS charged, r.amount, r.currency,
          p.provider, p.method;

-- refusals_open --
-- Refused claims whose units nobody has put back yet; the process that waited for the verdict had its chance.
SELECT r.order_id AS "order", r.event_id, r.epoch, r.sale, r.reason
  FROM refusals r
 WHERE r.settled_at IS NULL AND r.sale IS NOT NULL AND r.created_at < now() - make_interval(secs => $1::bigint / 1000.0)
 ORDER BY r.created_at
 LIMIT $2;

-- strays_of --
-- Of orders that Redis says are being paid: those whose claim the record has passed by without writing it down.
SELECT n.order_id AS "order", n.attempt
  FROM unnest($3::text[], $4::text[], $5::text[]) AS n (order_id, attempt, event_id)
  JOIN watermarks w ON w.sale = $1 AND w.stream = 'money' AND w.epoch = $2
 WHERE string_to_array(w.upto, '-')::bigint[] >= string_to_array(n.event_id, '-')::bigint[]
   AND NOT EXISTS (SELECT FROM payments p WHERE p.id = n.attempt)
   AND NOT EXISTS (SELECT FROM refusals r WHERE r.order_id = n.order_id AND r.event_id = n.event_id)
   AND NOT EXISTS (SELECT FROM orders o WHERE o.id = n.order_id AND o.claim IN ('open', 'sold'));

-- stray_end --
-- The order ends in the record too; no money moved.
UPDATE orders SET state = 'released', reason = 'claim_lost', ended_at = now(), updated_at = now()
 WHERE id = $1 AND state IN ('reserved', 'confirming') AND claim NOT IN ('open', 'sold');

-- What the record says of one sale, for its report.

-- seconds --
-- The line's documents, oldest first.
SELECT epoch, (extract(epoch FROM at) * 1000)::bigint AS at_ms, state, tail, waiting, absent, rate_target, active,
       active_max, free, held, sold, reason
  FROM line_seconds WHERE sale = $1
 ORDER BY epoch, seq;

-- admissions --
-- Whom the line let in, oldest first. By event ids, which never go back as a clock may.
SELECT (extract(epoch FROM at) * 1000)::bigint AS at_ms, places, cardinality(returners) AS returners, active, active_max,
       passed_over, inversions
  FROM admissions WHERE sale = $1
 ORDER BY epoch, string_to_array(event_id, '-')::bigint[];

-- shown_waits --
-- Shown waits that a turn ended, by length, over all judges.
SELECT upto_s, sum(ended)::int AS ended, sum(by_p50)::int AS by_p50, sum(by_p90)::int AS by_p90
  FROM shown_waits WHERE sale = $1
 GROUP BY upto_s ORDER BY upto_s;

-- turns --
-- Turns with an order, and turns that paid for one.
SELECT count(DISTINCT turn)::int AS reserved, count(DISTINCT turn) FILTER (WHERE confirmed_at IS NOT NULL)::int AS bought
  FROM orders WHERE sale = $1;

-- orders --
-- Orders by what became of them.
SELECT state, count(*)::int AS orders, sum(amount)::bigint AS amount, currency
  FROM orders WHERE sale = $1
 GROUP BY state, currency ORDER BY orders DESC, state;

-- payments --
-- Tries to pay by how they ended.
SELECT p.state, coalesce(p.reason, '') AS reason, count(*)::int AS payments
  FROM payments p JOIN orders o ON o.id = p.order_id
 WHERE o.sale = $1
 GROUP BY 1, 2 ORDER BY payments DESC, 1, 2;

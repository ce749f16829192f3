-- try_take --
-- Use one try up where the budget has one left: $3 ms is one, $4 ms are all. In how many ms it is whole again. No budget
-- takes longer than all of it: what would by far (two statements at once differ a little) was noted before the clock went
-- back, and counts for nothing.
WITH taken AS (
  INSERT INTO tries AS t (budget, name, whole_at) VALUES ($1, $2, now() + $3 * interval '1 ms')
  ON CONFLICT (budget, name) DO UPDATE SET whole_at = $3 * interval '1 ms' +
    CASE WHEN t.whole_at > now() + 2 * $4 * interval '1 ms' THEN now() ELSE greatest(t.whole_at, now()) END
   WHERE greatest(t.whole_at, now()) + $3 * interval '1 ms' <= now() + $4 * interval '1 ms'
      OR t.whole_at > now() + 2 * $4 * interval '1 ms'
  RETURNING whole_at
), used AS (
  SELECT whole_at, true AS is_taken FROM taken
  UNION ALL
  SELECT whole_at, false FROM tries WHERE budget = $1 AND name = $2 AND NOT EXISTS (SELECT FROM taken)
)
SELECT is_taken, ceil(1000 * extract(epoch FROM whole_at - now()))::bigint AS whole_in_ms FROM used;

-- try_give_back --
-- The try was a good one.
UPDATE tries SET whole_at = whole_at - $3 * interval '1 ms' WHERE budget = $1 AND name = $2 RETURNING whole_at;

-- tries_forget --
-- Budgets that are whole again.
DELETE FROM tries
 WHERE (budget, name) IN (SELECT budget, name FROM tries WHERE whole_at <= now() LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING name;

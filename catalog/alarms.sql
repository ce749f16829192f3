-- alarm_put --
-- Ask for a letter, once. No row back: asked before, too late, or no sale that is to come.
INSERT INTO alarms (account, sale)
SELECT $1, sale FROM coming_sales WHERE sale = $2 AND starts_at - make_interval(mins => $3) >= now()
ON CONFLICT DO NOTHING
RETURNING no;

-- alarm_of --
-- One alarm, whatever became of it.
SELECT * FROM alarm_details WHERE account = $1 AND sale = $2;

-- is_visible --
-- Whether people may see this sale.
SELECT EXISTS (SELECT FROM sales WHERE id = $1 AND id <> '_shop' AND approved_at IS NOT NULL);

-- alarm_delete --
-- No letter, if it has not been written.
DELETE FROM alarms WHERE account = $1 AND sale = $2;

-- alarms_page --
-- What somebody asked for, newest first.
SELECT * FROM alarm_details WHERE account = $1 AND ($2::bigint IS NULL OR no < $2) ORDER BY no DESC LIMIT $3;

-- alarms_forget_account --
-- Everything that somebody asked for.
DELETE FROM alarms WHERE account = $1;

-- alarms_due --
-- Whom to tell now of which start; theirs alone who reads them. They are found by what they were told of last, nothing,
-- an earlier start or a later one: each is a range of an index, so that those who know cost nothing.
WITH soon AS (
  SELECT * FROM coming_sales WHERE starts_at > now() AND starts_at - make_interval(mins => $1) <= now()
), found AS (
  SELECT f.* FROM soon c CROSS JOIN LATERAL (
    SELECT account, sale FROM alarms WHERE sale = c.sale AND told_for IS NULL
     UNION ALL
    SELECT account, sale FROM alarms WHERE sale = c.sale AND told_for < c.opens_at
     UNION ALL
    SELECT account, sale FROM alarms WHERE sale = c.sale AND told_for > c.opens_at
    LIMIT $2) AS f
   ORDER BY c.starts_at LIMIT $2
)
SELECT a.account, a.sale, c.title, c.opens_at, c.starts_at,
       ceil(extract(epoch FROM c.starts_at - now()))::int AS left_s
  FROM found f JOIN alarms a ON a.account = f.account AND a.sale = f.sale JOIN soon c ON c.sale = a.sale
 WHERE a.told_for IS DISTINCT FROM c.opens_at
   FOR UPDATE OF a SKIP LOCKED;

-- alarms_told --
-- These were told of the start that their sale has.
UPDATE alarms a SET told_for = t.opens_at, told_at = now()
  FROM unnest($1::text[], $2::text[], $3::timestamptz[]) AS t (account, sale, opens_at)
 WHERE a.account = t.account AND a.sale = t.sale;

-- alarms_forget --
-- Alarms of sales that were over a month ago.
DELETE FROM alarms WHERE ctid IN (
  SELECT a.ctid FROM alarms a JOIN sales s ON s.id = a.sale
   WHERE coalesce(s.closed_at, s.closes_at) < now() - interval '30 days' LIMIT $1);

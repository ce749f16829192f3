-- horizon --
-- Every transaction below this has ended: what it wrote is there.
SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint;

-- notices_between --
-- What was written for these accounts since the horizon that was read last; always answers the present one.
WITH present AS MATERIALIZED (SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS horizon)
SELECT p.horizon, n.account, n.xid, n.id, n.kind, n.order_id AS "order", n.sale, n.state, n.reason, n.amount, n.currency,
       (extract(epoch FROM n.created_at) * 1000)::bigint AS at_ms
  FROM present p LEFT JOIN notices n ON n.xid >= $1 AND n.xid < p.horizon AND n.account = ANY($2::text[])
 ORDER BY n.xid, n.id;

-- notices_missed --
-- What one account was not told after the notice it saw last, up to where its stream begins.
SELECT account, xid, id, kind, order_id AS "order", sale, state, reason, amount, currency,
       (extract(epoch FROM created_at) * 1000)::bigint AS at_ms
  FROM notices
 WHERE account = $1 AND (xid, id) > ($2, $3) AND xid < $4
 ORDER BY xid, id
 LIMIT $5;

-- notices_page --
-- A page of one account's, newest first, after the one that ended the page before.
SELECT account, xid, id, kind, order_id AS "order", sale, state, reason, amount, currency,
       (extract(epoch FROM created_at) * 1000)::bigint AS at_ms
  FROM notices
 WHERE account = $1 AND ($2::bigint IS NULL OR (xid, id) < ($2, $3))
 ORDER BY xid DESC, id DESC
 LIMIT $4;

-- letters_due --
-- Notices about which a letter is to be written, locked for whoever writes it.
SELECT account, xid, id, letter, order_id AS "order", amount, currency FROM notices
 WHERE letter IS NOT NULL ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED;

-- letter_written --
-- It stands in the outbox, by this transaction.
UPDATE notices SET letter = NULL WHERE account = $1 AND xid = $2 AND id = $3;

-- order_told --
-- What a letter says of an order.
SELECT o.amount, o.currency,
       (SELECT json_agg(json_build_array(i.title, i.quantity) ORDER BY i.product) FROM order_items i WHERE i.order_id = o.id)::text
         AS items
  FROM orders o WHERE o.id = $1;

-- notices_forget --
-- A month old; the oldest first, so many at once.
DELETE FROM notices n USING (SELECT account, xid, id, created_at FROM notices ORDER BY xid LIMIT $2) AS old
 WHERE n.account = old.account AND n.xid = old.xid AND n.id = old.id
   AND old.created_at < now() - make_interval(days => $1)
RETURNING n.id;

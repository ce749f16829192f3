-- Notices of a whole batch. A plan made while one order changed would compare each of a thousand changed rows with each
-- of the others (a million comparisons, most of what a batch of money took); and a function is called no more for each
-- order that was bought.

CREATE OR REPLACE FUNCTION order_change_is_noticed() RETURNS trigger LANGUAGE plpgsql
  -- Never one by one, however few rows there were when the plan was made.
  SET enable_nestloop = off AS $$
BEGIN
  INSERT INTO notices (account, kind, order_id, sale, state, reason, letter)
  SELECT n.buyer, 'order', n.id, n.sale, n.state, n.reason,
         CASE WHEN n.state = 'confirmed' THEN (
           SELECT 'order_confirmed' FROM accounts a
            WHERE a.id = n.buyer AND a.email IS NOT NULL AND a.deleted_at IS NULL) END
    FROM new_rows n JOIN old_rows o ON o.id = n.id
   WHERE n.state <> o.state AND n.state <> 'confirming';
  RETURN NULL;
END
$$;
CREATE OR REPLACE FUNCTION order_arrival_is_noticed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO notices (account, kind, order_id, sale, state, reason, letter)
  SELECT n.buyer, 'order', n.id, n.sale, n.state, n.reason,
         CASE WHEN n.state = 'confirmed' THEN (
           SELECT 'order_confirmed' FROM accounts a
            WHERE a.id = n.buyer AND a.email IS NOT NULL AND a.deleted_at IS NULL) END
    FROM new_rows n
   WHERE n.state NOT IN ('reserved', 'confirming');
  RETURN NULL;
END
$$;

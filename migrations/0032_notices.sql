-- What buyers are told of their orders: a row for each change of state that the record makes, written with the change by
-- whatever makes it. Live streams, lists and letters all read these rows.

CREATE TABLE notices (
  account    text NOT NULL,
  -- The transaction that wrote it. Rows of transactions below `pg_snapshot_xmin` are all there and stay: whoever reads up
  -- to there has missed none, in whatever order they were committed.
  xid        bigint NOT NULL DEFAULT pg_current_xact_id()::text::bigint,
  id         bigint GENERATED ALWAYS AS IDENTITY,
  kind       text NOT NULL CHECK (kind IN ('order', 'refund')),
  order_id   text NOT NULL,
  sale       text,
  state      text NOT NULL,
  reason     text,
  -- What went back, of a refund.
  amount     bigint,
  currency   text,
  -- The letter to be written about it; null: none, or it was written.
  letter     text,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (account, xid, id)
);
CREATE INDEX notices_in_order ON notices (xid);
CREATE INDEX notices_to_write ON notices (id) WHERE letter IS NOT NULL;

CREATE FUNCTION letter_to(buyer text, kind text) RETURNS text STABLE LANGUAGE sql AS $$
  SELECT kind FROM accounts WHERE id = buyer AND email IS NOT NULL AND deleted_at IS NULL
$$;

-- A statement a batch, not a call a row. Being paid tells its buyer nothing; falling back to reserved, after a decline, does.
CREATE FUNCTION order_change_is_noticed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO notices (account, kind, order_id, sale, state, reason, letter)
  SELECT n.buyer, 'order', n.id, n.sale, n.state, n.reason,
         CASE WHEN n.state = 'confirmed' THEN letter_to(n.buyer, 'order_confirmed') END
    FROM new_rows n JOIN old_rows o ON o.id = n.id
   WHERE n.state <> o.state AND n.state <> 'confirming';
  RETURN NULL;
END
$$;
CREATE FUNCTION order_arrival_is_noticed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO notices (account, kind, order_id, sale, state, reason, letter)
  SELECT n.buyer, 'order', n.id, n.sale, n.state, n.reason,
         CASE WHEN n.state = 'confirmed' THEN letter_to(n.buyer, 'order_confirmed') END
    FROM new_rows n
   WHERE n.state NOT IN ('reserved', 'confirming');
  RETURN NULL;
END
$$;
CREATE TRIGGER orders_change_noticed AFTER UPDATE ON orders REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION order_change_is_noticed();
CREATE TRIGGER orders_arrival_noticed AFTER INSERT ON orders REFERENCING NEW TABLE AS new_rows
  FOR EACH STATEMENT EXECUTE FUNCTION order_arrival_is_noticed();

-- Money that is back.
CREATE FUNCTION refund_is_noticed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO notices (account, kind, order_id, sale, state, reason, amount, currency, letter)
  SELECT o.buyer, 'refund', o.id, o.sale, o.state, NEW.reason, NEW.amount, NEW.currency, letter_to(o.buyer, 'order_refunded')
    FROM payments p JOIN orders o ON o.id = p.order_id WHERE p.id = NEW.payment_id;
  RETURN NULL;
END
$$;
CREATE TRIGGER refunds_noticed AFTER UPDATE OF state ON refunds FOR EACH ROW
  WHEN (OLD.state = 'pending' AND NEW.state = 'done') EXECUTE FUNCTION refund_is_noticed();

-- After the sale: deliveries by a clock that tests can move, cancellations, returns, refunds by a sale's policy.

-- When the test clock was moved, and to which offset. Moments are written down in real time; only where a deadline is
-- judged does the shop's clock come in, so that an order made after a move is no older than it is.
CREATE TABLE clock_moves (
  moved_at  timestamptz PRIMARY KEY DEFAULT clock_timestamp(),
  offset_ms bigint NOT NULL
);
INSERT INTO clock_moves SELECT '-infinity', offset_ms FROM clock;

CREATE FUNCTION clock_move_is_noted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO clock_moves (offset_ms) VALUES (NEW.offset_ms);
  RETURN NULL;
END
$$;
CREATE TRIGGER clock_moved AFTER UPDATE ON clock FOR EACH ROW EXECUTE FUNCTION clock_move_is_noted();

-- What the shop's clock says now.
CREATE FUNCTION shop_now() RETURNS timestamptz STABLE LANGUAGE sql AS $$
  SELECT now() + make_interval(secs => offset_ms / 1000.0) FROM clock
$$;
-- What it said at a moment.
CREATE FUNCTION shop_time_of(moment timestamptz) RETURNS timestamptz STABLE LANGUAGE sql AS $$
  SELECT moment + make_interval(secs => offset_ms / 1000.0) FROM clock_moves
   WHERE moved_at <= moment ORDER BY moved_at DESC LIMIT 1
$$;
-- The last moment at which it said no more than `said`: what was written down until then is that old on the shop's clock.
CREATE FUNCTION moment_of(said timestamptz) RETURNS timestamptz STABLE LANGUAGE sql AS $$
  SELECT max(least(said - make_interval(secs => offset_ms / 1000.0), ends_at))
    FROM (SELECT moved_at, offset_ms, coalesce(lead(moved_at) OVER (ORDER BY moved_at), 'infinity') AS ends_at
            FROM clock_moves) AS spans
   WHERE said - make_interval(secs => offset_ms / 1000.0) >= moved_at
$$;

ALTER TABLE orders
  ADD COLUMN delivered_at        timestamptz,
  ADD COLUMN return_requested_at timestamptz,
  -- An order for a visit ships the day after it: it may be cancelled until then. Null = by the days since it was confirmed.
  ADD COLUMN ships_on            date;
CREATE INDEX orders_confirmed ON orders (confirmed_at) WHERE state = 'confirmed';
CREATE INDEX orders_under_way ON orders (state, confirmed_at) WHERE state IN ('preparing', 'shipped', 'delivered') AND ships_on IS NULL;
CREATE INDEX orders_for_visits ON orders (state, ships_on) WHERE state IN ('preparing', 'shipped', 'delivered') AND ships_on IS NOT NULL;
CREATE INDEX orders_to_return ON orders (return_requested_at) WHERE state = 'return_requested';

-- An entry for that day: what is given back for it depends on how many days it is away. Null = no such thing.
ALTER TABLE sale_items ADD COLUMN IF NOT EXISTS visit_on date;
-- How much of its price a sale gives back; null = as everywhere else.
ALTER TABLE sales ADD COLUMN refunding jsonb;

-- Units of an order that go back from sold to free; null = units that are given to the sale or taken out of it.
ALTER TABLE stock_moves ADD COLUMN order_id text REFERENCES orders (id);
CREATE INDEX stock_moves_returning ON stock_moves (created_at) WHERE applied_epoch IS NULL AND order_id IS NOT NULL;

-- What was asked for after the sale, by its Idempotency-Key: written in the transaction that did it, or refused it.
CREATE TABLE order_requests (
  order_id   text NOT NULL,
  verb       text NOT NULL CHECK (verb IN ('cancel', 'return')),
  buyer      text NOT NULL,
  key        text NOT NULL,
  digest     text NOT NULL,
  -- Whether it was refused: the order was in another state.
  refused    boolean NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (order_id, verb, buyer, key)
);

-- As before, and what goes back of each payment.
CREATE OR REPLACE VIEW order_details AS
SELECT o.id AS "order", o.sale, o.buyer, coalesce(o.turn, '') AS turn, o.lane, o.epoch, o.state, o.claim, o.reason, o.rev,
       o.amount, o.currency, o.address, o.idempotency_key, o.body_digest, o.reserved_at,
       (extract(epoch FROM o.expires_at) * 1000)::bigint AS expires_at_ms,
       (SELECT coalesce(json_agg(json_build_object(
                 'product', i.product, 'title', i.title, 'quantity', i.quantity, 'unit_amount', i.unit_amount,
                 'list_amount', i.list_amount, 'currency', i.currency) ORDER BY i.product), '[]')
          FROM order_items i WHERE i.order_id = o.id) AS items,
       (SELECT coalesce(json_agg(json_build_object(
                 'payment', p.id, 'provider', p.provider, 'method', p.method, 'state', p.state, 'reason', p.reason,
                 'retryable', p.retryable, 'key', p.idempotency_key, 'digest', p.body_digest, 'currency', p.currency,
                 'refund', (SELECT r.amount FROM refunds r WHERE r.payment_id = p.id),
                 'created_at_ms', (extract(epoch FROM p.created_at) * 1000)::bigint) ORDER BY p.created_at, p.id), '[]')
          FROM payments p WHERE p.order_id = o.id) AS payments
  FROM orders o;

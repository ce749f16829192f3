-- What was ordered from a cart is in it no more while that order stands, and is in it again when the order ends unbought:
-- lapsed, given up, or declined for good. So a row stays and names its order; whoever changes the item afterwards takes
-- the name off, and the change stays.
ALTER TABLE cart_items
  ADD COLUMN order_id text,
  ADD COLUMN taken_at timestamptz,
  ADD CONSTRAINT taken_says_when CHECK ((order_id IS NULL) = (taken_at IS NULL));

-- What carts hold at this moment. An order is recorded moments after it was made; one that is not recorded after twice the
-- longest time it may be held was lost with its Redis, and nobody can pay for it any more.
CREATE VIEW cart_now AS
SELECT c.* FROM cart_items c
 WHERE c.touched_at > now() - interval '3 days'
   AND (c.order_id IS NULL
        OR coalesce((SELECT o.state IN ('expired', 'released', 'payment_failed') FROM orders o WHERE o.id = c.order_id),
                    c.taken_at < now() - interval '2 hours'));

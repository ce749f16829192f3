-- Entries: units that are not sent but redeemed on the visit, with a code that the buyer shows.

ALTER TABLE products
  ADD COLUMN kind     text NOT NULL DEFAULT 'goods' CHECK (kind IN ('goods', 'entry')),
  -- The day of the visit; null: an entry for any day, or no entry.
  ADD COLUMN visit_on date CHECK (visit_on IS NULL OR kind = 'entry');

-- Whoever sells an entry sells it for its day, outside sales too: what a refund and a delivery are counted from.
CREATE FUNCTION item_has_its_day() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  NEW.visit_on := coalesce(NEW.visit_on, (SELECT visit_on FROM products WHERE id = NEW.product));
  RETURN NEW;
END
$$;
CREATE TRIGGER item_day BEFORE INSERT ON sale_items FOR EACH ROW EXECUTE FUNCTION item_has_its_day();

-- As before, and what kind of thing it is.
CREATE OR REPLACE VIEW product_details AS
SELECT p.id AS product, p.no, p.vendor, p.title, p.about, p.image, p.amount, p.currency,
       coalesce((extract(epoch FROM p.available_from) * 1000)::bigint, 0) AS available_from_ms,
       coalesce((extract(epoch FROM p.available_until) * 1000)::bigint, 0) AS available_until_ms,
       p.discontinued_at IS NOT NULL AS is_discontinued, p.deleted_at IS NOT NULL AS is_deleted,
       (extract(epoch FROM p.created_at) * 1000)::bigint AS created_at_ms,
       coalesce(i.stock - i.claimed - i.sold, 0) AS units_left,
       i.product IS NOT NULL AS is_ordinary, p.kind, p.visit_on
  FROM products p LEFT JOIN sale_items i ON i.sale = '_shop' AND i.product = p.id;

-- The lines of orders that are entries. An item that a sale sells for a day is one, whatever its product says.
CREATE VIEW entry_lines AS
SELECT o.id AS order_id, o.buyer, i.product, i.title, i.quantity, coalesce(p.vendor, s.vendor) AS vendor, e.visit_on
  FROM orders o
  JOIN order_items i ON i.order_id = o.id
  JOIN sale_items e ON e.sale = o.sale AND e.product = i.product
  JOIN products p ON p.id = i.product
  JOIN sales s ON s.id = o.sale
 WHERE p.kind = 'entry' OR e.visit_on IS NOT NULL;

-- One unit each, made when its buyer first asks for the codes.
CREATE TABLE entries (
  -- order:product:number
  id          text PRIMARY KEY,
  order_id    text NOT NULL REFERENCES orders (id),
  product     text NOT NULL,
  -- Finds the code that somebody shows, and tells nothing of it: it is 80 random bits.
  code_hash   bytea NOT NULL UNIQUE CHECK (length(code_hash) = 32),
  -- The code for its buyer to see.
  code        bytea NOT NULL,
  redeemed_at timestamptz,
  redeemed_by text,
  CHECK ((redeemed_at IS NULL) = (redeemed_by IS NULL))
);
CREATE INDEX entries_of_order ON entries (order_id);
CREATE INDEX entries_redeemed ON entries (redeemed_at DESC) WHERE redeemed_at IS NOT NULL;

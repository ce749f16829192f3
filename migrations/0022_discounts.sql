-- Discount events: so much off these products between two moments of the shop's clock.

CREATE TABLE discounts (
  id         text PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 40),
  -- Whose products it is about; null: an operator's, about anybody's.
  vendor     text REFERENCES vendors (id),
  title      text NOT NULL CHECK (length(title) BETWEEN 1 AND 200),
  starts_at  timestamptz NOT NULL,
  ends_at    timestamptz NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz,
  CONSTRAINT discounts_window CHECK (ends_at > starts_at)
);
CREATE INDEX discounts_of_vendor ON discounts (vendor, id DESC);

CREATE TABLE discount_items (
  discount text NOT NULL REFERENCES discounts (id) ON DELETE CASCADE,
  product  text NOT NULL REFERENCES products (id),
  percent  int NOT NULL CHECK (percent BETWEEN 1 AND 100),
  PRIMARY KEY (discount, product)
);
CREATE INDEX discount_items_of_product ON discount_items (product);

-- The best discount of each product at this moment: its start belongs to it, its end does not.
CREATE VIEW discounts_now AS
SELECT DISTINCT ON (i.product) i.product, d.id AS discount, d.title, i.percent
  FROM discount_items i JOIN discounts d ON d.id = i.discount CROSS JOIN clock c
 WHERE d.deleted_at IS NULL AND now() + make_interval(secs => c.offset_ms / 1000.0) >= d.starts_at
   AND now() + make_interval(secs => c.offset_ms / 1000.0) < d.ends_at
 ORDER BY i.product, i.percent DESC, d.id;

-- What goes with a product, and what sells best: counted from the orders by a job, read by key.

-- The newest orders of a product.
CREATE INDEX order_items_of_product ON order_items (product, order_id DESC);

CREATE TABLE bought_together (
  product    text PRIMARY KEY,
  -- What was bought with it most often, the first most of all.
  others     text[] NOT NULL DEFAULT '{}',
  -- Orders of it were paid or given back since they were counted.
  is_due     boolean NOT NULL DEFAULT true,
  counted_at timestamptz NOT NULL DEFAULT '-infinity'
);
CREATE INDEX bought_together_due ON bought_together (counted_at) WHERE is_due;

CREATE TABLE best_sellers (
  place   int PRIMARY KEY CHECK (place > 0),
  product text NOT NULL UNIQUE
);

-- Up to which transaction notices of orders were read, and when best sellers were ranked.
CREATE TABLE recommending (
  is_only   boolean PRIMARY KEY DEFAULT true CHECK (is_only),
  xid       bigint NOT NULL DEFAULT 0,
  ranked_at timestamptz
);
INSERT INTO recommending DEFAULT VALUES;

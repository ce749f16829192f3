-- Vendors, ordinary products and their stock. The shop of ordinary products is one more seller of stock: a row of `sales`
-- that is never listed, has no line and asks for no pass, so that holding, recording, rebuilding and auditing are the same.

CREATE TABLE vendors (
  id         text PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 40),
  account    text NOT NULL REFERENCES accounts (id),
  name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
  about      text NOT NULL DEFAULT '' CHECK (length(about) <= 2000),
  created_at timestamptz NOT NULL DEFAULT now(),
  updated_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz
);
CREATE UNIQUE INDEX vendors_one_active_an_account ON vendors (account) WHERE deleted_at IS NULL;

ALTER TABLE products
  -- null: the house's own, or made with a sale.
  ADD COLUMN vendor          text REFERENCES vendors (id),
  ADD COLUMN about           text NOT NULL DEFAULT '' CHECK (length(about) <= 4000),
  ADD COLUMN image           text CHECK (length(image) <= 300),
  ADD COLUMN available_from  timestamptz,
  ADD COLUMN available_until timestamptz,
  ADD COLUMN discontinued_at timestamptz,
  ADD COLUMN updated_at      timestamptz NOT NULL DEFAULT now(),
  -- Orders lists by the time they were made, with an id that breaks ties.
  ADD COLUMN no              bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
  ADD CONSTRAINT products_window CHECK (available_until > available_from);
CREATE INDEX products_of_vendor ON products (vendor, no DESC) WHERE deleted_at IS NULL;
CREATE INDEX products_listed ON products (no DESC) WHERE deleted_at IS NULL;

ALTER TABLE sales
  DROP CONSTRAINT sales_id_check,
  DROP CONSTRAINT sales_limit_per_buyer_check,
  ADD CONSTRAINT sales_id_check CHECK (id = '_shop' OR id ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
  ADD CONSTRAINT sales_limit_per_buyer_check CHECK (id = '_shop' OR limit_per_buyer BETWEEN 1 AND 1000);

-- Nobody can choose this id. It has no limit per buyer: one sale's limit would be the limit of a life here.
INSERT INTO sales (id, title, opens_at, closes_at, limit_per_buyer, hold_ttl_s, policy)
VALUES ('_shop', 'Ordinary products', '1970-01-01T00:00:00Z', '9999-01-01T00:00:00Z', 2147483647, 600,
        '{"mode": "manual", "rate_centi": 0, "active_max": 0}');

ALTER TABLE stock_moves
  -- Units that come are counted in `sale_items.stock` from the first moment, and Redis is told afterwards. Units that
  -- leave are asked for, taken from Redis while they are free, and only then counted, or refused because they were not.
  ADD COLUMN state  text NOT NULL DEFAULT 'counted' CHECK (state IN ('asked', 'counted', 'refused')),
  -- Which seller units that leave go to; null: out of the house.
  ADD COLUMN target text REFERENCES sales (id),
  ADD CONSTRAINT only_leaving_is_asked CHECK (state = 'counted' OR quantity < 0);
DROP INDEX stock_moves_pending;
CREATE INDEX stock_moves_pending ON stock_moves (created_at, id) WHERE applied_epoch IS NULL AND state <> 'refused';

-- A product with what the record has left of its ordinary units; `left` may be seconds old, Redis knows better.
CREATE VIEW product_details AS
SELECT p.id AS product, p.no, p.vendor, p.title, p.about, p.image, p.amount, p.currency,
       coalesce((extract(epoch FROM p.available_from) * 1000)::bigint, 0) AS available_from_ms,
       coalesce((extract(epoch FROM p.available_until) * 1000)::bigint, 0) AS available_until_ms,
       p.discontinued_at IS NOT NULL AS is_discontinued, p.deleted_at IS NOT NULL AS is_deleted,
       (extract(epoch FROM p.created_at) * 1000)::bigint AS created_at_ms,
       coalesce(i.stock - i.claimed - i.sold, 0) AS units_left,
       i.product IS NOT NULL AS is_ordinary
  FROM products p LEFT JOIN sale_items i ON i.sale = '_shop' AND i.product = p.id;

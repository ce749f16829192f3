-- Sales, products and the stock that moves between them. Money is integer minor units.

CREATE TABLE clock (
  one       boolean PRIMARY KEY DEFAULT true CHECK (one),
  offset_ms bigint NOT NULL DEFAULT 0
);
INSERT INTO clock DEFAULT VALUES;

CREATE TABLE products (
  id           text PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
  title        text NOT NULL CHECK (length(title) BETWEEN 1 AND 200),
  amount       bigint NOT NULL CHECK (amount >= 0),
  currency     text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  created_at   timestamptz NOT NULL DEFAULT now(),
  deleted_at   timestamptz
);

CREATE TABLE sales (
  id              text PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
  -- A short number that stands for the sale inside ids; 24 bits.
  no              int GENERATED ALWAYS AS IDENTITY (MAXVALUE 16777215) UNIQUE,
  title           text NOT NULL CHECK (length(title) BETWEEN 1 AND 200),
  opens_at        timestamptz NOT NULL,
  closes_at       timestamptz NOT NULL,
  -- What an operator did whatever the schedule says; null = by the schedule.
  opened_at       timestamptz,
  closed_at       timestamptz,
  draining_at     timestamptz,
  limit_per_buyer int NOT NULL CHECK (limit_per_buyer BETWEEN 1 AND 1000),
  hold_ttl_s      int NOT NULL CHECK (hold_ttl_s BETWEEN 30 AND 3600),
  guests          boolean NOT NULL DEFAULT false,
  opening         text NOT NULL DEFAULT 'fifo' CHECK (opening IN ('fifo', 'draw')),
  message         jsonb,
  -- Admission settings: the truth of which Redis holds a copy; `policy_version` is the ETag.
  policy          jsonb NOT NULL,
  policy_version  int NOT NULL DEFAULT 1,
  paused_by       text[] NOT NULL DEFAULT '{}',
  -- 0 = never loaded into Redis. Raised by every rebuild; a record of another epoch is refused.
  line_epoch      int NOT NULL DEFAULT 0,
  shop_epoch      int NOT NULL DEFAULT 0,
  -- No place above this number was ever issued; raised ahead of need, never lowered.
  place_ceiling   bigint NOT NULL DEFAULT 0,
  created_by      text,
  created_at      timestamptz NOT NULL DEFAULT now(),
  updated_at      timestamptz NOT NULL DEFAULT now(),
  CHECK (closes_at > opens_at)
);

CREATE TABLE sale_items (
  sale       text NOT NULL REFERENCES sales (id),
  product    text NOT NULL REFERENCES products (id),
  title      text NOT NULL,
  amount     bigint NOT NULL CHECK (amount >= 0),
  list_amount bigint NOT NULL CHECK (list_amount >= amount),
  currency   text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  -- stock = every unit given to the sale and not taken out again.
  stock      bigint NOT NULL CHECK (stock >= 0),
  claimed    bigint NOT NULL DEFAULT 0,
  sold       bigint NOT NULL DEFAULT 0,
  position   int NOT NULL DEFAULT 0,
  PRIMARY KEY (sale, product),
  CONSTRAINT never_oversold CHECK (claimed >= 0 AND sold >= 0 AND claimed + sold <= stock)
);

-- Every change of a sale's stock, applied once per id on each side.
CREATE TABLE stock_moves (
  id         text PRIMARY KEY,
  sale       text NOT NULL,
  product    text NOT NULL,
  quantity   bigint NOT NULL,
  why        text NOT NULL,
  -- The shop epoch in whose Redis keys this move is counted; null = not yet applied to Redis.
  applied_epoch int,
  created_at timestamptz NOT NULL DEFAULT now(),
  FOREIGN KEY (sale, product) REFERENCES sale_items (sale, product)
);
CREATE INDEX stock_moves_pending ON stock_moves (sale) WHERE applied_epoch IS NULL;

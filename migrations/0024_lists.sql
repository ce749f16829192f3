-- What people wish for, and what they mean to buy.

CREATE TABLE wishes (
  account  text NOT NULL REFERENCES accounts (id),
  product  text NOT NULL REFERENCES products (id),
  -- Orders the list, newest first.
  no       bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
  added_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (account, product)
);
CREATE INDEX wishes_of_account ON wishes (account, no DESC);

-- An item lives for three days after it was last touched.
CREATE TABLE cart_items (
  account    text NOT NULL REFERENCES accounts (id),
  product    text NOT NULL REFERENCES products (id),
  quantity   int NOT NULL CHECK (quantity BETWEEN 1 AND 1000),
  added_at   timestamptz NOT NULL DEFAULT now(),
  touched_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (account, product)
);
CREATE INDEX cart_items_by_age ON cart_items (touched_at);

-- The record: what was sold, to whom, for what money, and how far the streams have been read. Postgres is the judge.

CREATE TABLE orders (
  id           text PRIMARY KEY,
  -- null: ordinary products, no line.
  sale         text REFERENCES sales (id),
  buyer        text NOT NULL,
  turn         text,
  lane         text NOT NULL DEFAULT 'general',
  epoch        int NOT NULL,
  state        text NOT NULL CHECK (state IN (
                 'reserved', 'confirming', 'confirmed', 'preparing', 'shipped', 'delivered', 'completed',
                 'expired', 'released', 'payment_failed', 'cancelled', 'return_requested', 'returned')),
  -- The claim on units: open (the provider may be called), sold, released, or refused by the record.
  claim        text NOT NULL DEFAULT 'none' CHECK (claim IN ('none', 'open', 'sold', 'released', 'refused')),
  -- Why the record refused the claim, or the order ended.
  reason       text,
  -- Counts the changes of this order in Redis; an older event never overwrites a newer one.
  rev          int NOT NULL,
  -- The rev of the newest money event applied to `claim`. Money and holdings are two streams read by two tasks: a
  -- holding of rev 4 may be recorded before the decline of rev 3, and must not hide it from the claim.
  claim_rev    int NOT NULL DEFAULT 0,
  amount       bigint NOT NULL CHECK (amount >= 0),
  currency     text NOT NULL,
  address      bytea,
  -- Idempotency of the reservation: the caller's key and a digest of the parsed body.
  idempotency_key text NOT NULL,
  body_digest  text NOT NULL,
  reserved_at  timestamptz NOT NULL,
  expires_at   timestamptz NOT NULL,
  confirmed_at timestamptz,
  ended_at     timestamptz,
  updated_at   timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX orders_of_buyer ON orders (buyer, id DESC);
CREATE INDEX orders_of_sale ON orders (sale, id DESC);
CREATE INDEX orders_open_claims ON orders (sale, id) WHERE claim = 'open';
-- A turn buys once: the pass is spent by a confirmation.
CREATE UNIQUE INDEX orders_one_claim_a_turn ON orders (sale, turn) WHERE claim IN ('open', 'sold');

CREATE TABLE order_items (
  order_id    text NOT NULL REFERENCES orders (id),
  product     text NOT NULL,
  title       text NOT NULL,
  quantity    int NOT NULL CHECK (quantity > 0),
  unit_amount bigint NOT NULL CHECK (unit_amount >= 0),
  list_amount bigint NOT NULL CHECK (list_amount >= 0),
  currency    text NOT NULL,
  PRIMARY KEY (order_id, product)
);

-- Each try to pay is a row with an id of its own, which is the provider's idempotency key.
CREATE TABLE payments (
  id              text PRIMARY KEY,
  order_id        text NOT NULL REFERENCES orders (id),
  provider        text NOT NULL,
  method          text NOT NULL,
  state           text NOT NULL CHECK (state IN (
                    'refused', 'pending', 'captured', 'declined', 'failed', 'refunding', 'refunded')),
  reason          text,
  retryable       boolean NOT NULL DEFAULT false,
  amount          bigint NOT NULL,
  currency        text NOT NULL,
  idempotency_key text NOT NULL,
  body_digest     text NOT NULL,
  -- Sealed; erased when the attempt ends.
  instrument      bytea,
  -- Who calls the provider, and until when nobody else may (Postgres's clock).
  driver          text,
  drive_until     timestamptz,
  created_at      timestamptz NOT NULL,
  ended_at        timestamptz,
  UNIQUE (order_id, idempotency_key)
);
CREATE UNIQUE INDEX payments_one_open_an_order ON payments (order_id) WHERE state = 'pending';
CREATE INDEX payments_open ON payments (drive_until) WHERE state IN ('pending', 'refunding');

-- Units claimed or bought per buyer and sale; moves with claims, so the limit holds in Postgres too (I7).
CREATE TABLE sale_buyers (
  sale         text NOT NULL REFERENCES sales (id),
  buyer        text NOT NULL,
  bought       int NOT NULL CHECK (bought >= 0),
  bought_max   int NOT NULL,
  PRIMARY KEY (sale, buyer),
  CONSTRAINT never_above_limit CHECK (bought <= bought_max)
);

-- One row per item and change of a claim: the account of every unit. Append only.
CREATE TABLE ledger (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at         timestamptz NOT NULL,
  sale       text,
  product    text NOT NULL,
  order_id   text NOT NULL,
  verb       text NOT NULL CHECK (verb IN ('claimed', 'refused', 'sold', 'released', 'restocked')),
  quantity   int NOT NULL CHECK (quantity > 0),
  amount     bigint NOT NULL,
  currency   text NOT NULL,
  epoch      int NOT NULL,
  event_id   text NOT NULL,
  reason     text,
  UNIQUE (order_id, product, verb, epoch, event_id)
);
CREATE INDEX ledger_of_sale ON ledger (sale, id);

-- What the line let in: judged by the audit (I5, I6).
CREATE TABLE admissions (
  sale        text NOT NULL REFERENCES sales (id),
  epoch       int NOT NULL,
  event_id    text NOT NULL,
  lane        text NOT NULL DEFAULT 'general',
  at          timestamptz NOT NULL,
  places      bigint[] NOT NULL,
  -- Places among `places` that had been passed over and came back.
  returners   bigint[] NOT NULL DEFAULT '{}',
  rate_milli  bigint NOT NULL,
  burst       int NOT NULL,
  active      int NOT NULL,
  active_max  int NOT NULL,
  passed_over int NOT NULL DEFAULT 0,
  inversions  int NOT NULL DEFAULT 0,
  PRIMARY KEY (sale, epoch, event_id)
);

-- How far each stream has been recorded. Moved by compare-and-set in the transaction that writes the rows: whoever
-- moves it from where it read is the writer. A row of an epoch that was fenced off is closed and never moves again; it
-- stays, so that a waiter of that epoch still learns whether its event was recorded.
CREATE TABLE watermarks (
  sale       text NOT NULL REFERENCES sales (id),
  stream     text NOT NULL CHECK (stream IN ('money', 'holdings', 'admissions')),
  epoch      int NOT NULL,
  upto       text NOT NULL DEFAULT '0-0' CHECK (upto ~ '^[0-9]+-[0-9]+$'),
  closed_at  timestamptz,
  updated_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (sale, stream, epoch)
);
CREATE UNIQUE INDEX watermarks_one_open_a_stream ON watermarks (sale, stream) WHERE closed_at IS NULL;

-- Claims that the record refused, so that a waiter that missed the announcement finds its verdict.
CREATE TABLE refusals (
  order_id  text NOT NULL,
  event_id  text NOT NULL,
  epoch     int NOT NULL,
  sale      text,
  reason    text NOT NULL CHECK (reason IN ('stock', 'limit', 'turn', 'epoch', 'state')),
  -- When the units were put where they belong in Redis (withdrawn for stock, free for the others).
  settled_at timestamptz,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (order_id, epoch, event_id)
);
CREATE INDEX refusals_unsettled ON refusals (sale) WHERE settled_at IS NULL;

-- Events nobody could read, kept whole; the rest goes on.
CREATE TABLE poison (
  sale       text NOT NULL,
  stream     text NOT NULL,
  epoch      int NOT NULL,
  event_id   text NOT NULL,
  payload    jsonb NOT NULL,
  error      text NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (sale, stream, epoch, event_id)
);

-- Captures that belong to no sold claim: written before the provider is asked, done once.
CREATE TABLE refunds (
  id          text PRIMARY KEY,
  payment_id  text NOT NULL REFERENCES payments (id),
  amount      bigint NOT NULL CHECK (amount > 0),
  currency    text NOT NULL,
  reason      text NOT NULL,
  state       text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'done')),
  drive_until timestamptz,
  created_at  timestamptz NOT NULL DEFAULT now(),
  done_at     timestamptz,
  UNIQUE (payment_id)
);
CREATE INDEX refunds_open ON refunds (created_at) WHERE state = 'pending';

-- Accounts that people make for themselves: their own data key, codes, resets, an address book.

ALTER TABLE accounts
  -- The key this account's personal data is sealed under, itself sealed. Deleting the account destroys it.
  ADD COLUMN data_key bytea,
  DROP CONSTRAINT deleted_tells_nothing,
  ADD CONSTRAINT deleted_tells_nothing CHECK (
    deleted_at IS NULL OR num_nonnulls(email, email_hash, name, phone, password_hash, data_key) = 0);
CREATE INDEX accounts_newest ON accounts (created_at DESC, id DESC) WHERE deleted_at IS NULL;

-- Who asked for a letter by naming an address. Written without looking whether anybody has it: the asker's answer, and
-- its time, cannot tell. The worker looks, and drops the row.
CREATE TABLE letter_requests (
  id           text PRIMARY KEY,
  kind         text NOT NULL CHECK (kind IN ('sign_up', 'verification', 'password_reset')),
  -- The address by each hash it may be kept under, current key first.
  email_hashes bytea[] NOT NULL CHECK (cardinality(email_hashes) > 0),
  language     text NOT NULL CHECK (language IN ('ko', 'en')),
  -- The account this sign-up made, if the address was free; what else it said, sealed.
  account      text,
  payload      bytea,
  created_at   timestamptz NOT NULL DEFAULT now()
);

-- Tries to verify an address, known or not: every try writes here. A code is kept as a keyed hash.
CREATE TABLE verifications (
  email_hash bytea PRIMARY KEY,
  -- null = none is good: never asked for, used, or only tried.
  code_hash  bytea,
  tries      int NOT NULL,
  expires_at timestamptz NOT NULL
);
CREATE INDEX verifications_by_age ON verifications (expires_at);

CREATE TABLE password_resets (
  token_hash bytea PRIMARY KEY,
  -- One at a time: asking again makes the one before useless.
  account    text NOT NULL UNIQUE REFERENCES accounts (id),
  expires_at timestamptz NOT NULL
);

CREATE TABLE addresses (
  id         text PRIMARY KEY,
  account    text NOT NULL REFERENCES accounts (id),
  -- The whole address as JSON, under the account's key.
  sealed     bytea NOT NULL,
  is_default boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX addresses_of_account ON addresses (account, id DESC);
CREATE UNIQUE INDEX addresses_one_default ON addresses (account) WHERE is_default;

-- How many letters an account was sent lately.
CREATE INDEX outbox_of_account ON outbox (account, created_at) WHERE account IS NOT NULL;

-- Whose orders are still to be made anonymous.
CREATE INDEX accounts_deleted ON accounts (id) WHERE deleted_at IS NOT NULL;

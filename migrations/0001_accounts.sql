-- Accounts and their sessions. Personal data is sealed; an e-mail address is found by a keyed hash of its normal form.

CREATE TABLE accounts (
  id            text PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 40),
  role          text NOT NULL DEFAULT 'customer' CHECK (role IN ('customer', 'vendor', 'manager', 'master')),
  email         bytea,
  email_hash    bytea UNIQUE,
  name          bytea,
  phone         bytea,
  -- argon2id; null = this account cannot sign in with a password.
  password_hash text,
  -- When the e-mail address was shown to be its owner's; null = not yet.
  verified_at   timestamptz,
  created_at    timestamptz NOT NULL DEFAULT now(),
  updated_at    timestamptz NOT NULL DEFAULT now(),
  -- A deleted account keeps its row for the record's sake and nothing that tells who it was.
  deleted_at    timestamptz,
  CONSTRAINT deleted_tells_nothing CHECK (
    deleted_at IS NULL OR num_nonnulls(email, email_hash, name, phone, password_hash) = 0)
);

-- One sign-in on one device: the family of all refresh tokens that followed from it.
CREATE TABLE sessions (
  id           text PRIMARY KEY,
  account      text NOT NULL REFERENCES accounts (id),
  -- What the device called itself, and where it was last seen; sealed.
  device       bytea,
  address      bytea,
  -- Digest of the one refresh token that is good now; null = this session cannot be refreshed.
  refresh_hash bytea,
  -- Digest of the token before it: still answered with the same successor for a few seconds after `rotated_at`.
  parent_hash  bytea,
  rotated_at   timestamptz,
  created_at   timestamptz NOT NULL DEFAULT now(),
  used_at      timestamptz NOT NULL DEFAULT now(),
  expires_at   timestamptz NOT NULL,
  -- No access token of this session is good beyond this: how long a revocation must be remembered.
  access_until timestamptz NOT NULL,
  revoked_at   timestamptz,
  revoked_for  text CHECK (revoked_for IN ('signed_out', 'reuse', 'role', 'password', 'deleted')),
  CONSTRAINT revoked_says_why CHECK ((revoked_at IS NULL) = (revoked_for IS NULL))
);
CREATE INDEX sessions_of_account ON sessions (account, id DESC) WHERE revoked_at IS NULL;
-- What every web process reads twice a second.
CREATE INDEX sessions_revoked ON sessions (revoked_at) WHERE revoked_at IS NOT NULL;

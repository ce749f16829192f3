-- Letters to people: written in the transaction that causes them, sent by the worker's mailer.

-- What letters to an account are written in.
ALTER TABLE accounts ADD COLUMN language text NOT NULL DEFAULT 'en' CHECK (language IN ('ko', 'en'));

CREATE TABLE outbox (
  id         text PRIMARY KEY,
  -- What this letter is about: the same cause never writes a second one. Kept longer than any cause can come again.
  once_key   text NOT NULL UNIQUE CHECK (length(once_key) BETWEEN 1 AND 200),
  kind       text NOT NULL CHECK (kind ~ '^[a-z][a-z_]{0,40}$'),
  -- Whom it is for: an account, whose address and language are looked up when it is sent, or an address (sealed).
  account    text REFERENCES accounts (id),
  recipient  bytea,
  language   text CHECK (language IN ('ko', 'en')),
  -- What its words need (JSON); sealed, and erased with the recipient when the letter has ended.
  params     bytea,
  tries      int NOT NULL DEFAULT 0,
  -- Not before; whoever claims it puts this off, so that nobody else sends it meanwhile.
  due_at     timestamptz NOT NULL DEFAULT now(),
  -- Of no use afterwards: a code that has run out.
  expires_at timestamptz NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(),
  ended_at   timestamptz,
  -- sent; expired: nobody took it in time; refused: the address is no good; vanished: there is no such account any more.
  outcome    text CHECK (outcome IN ('sent', 'expired', 'refused', 'vanished')),
  CONSTRAINT ended_says_how CHECK ((ended_at IS NULL) = (outcome IS NULL)),
  CONSTRAINT ended_tells_nothing CHECK (ended_at IS NULL OR num_nonnulls(recipient, params) = 0),
  CONSTRAINT for_somebody CHECK (ended_at IS NOT NULL OR num_nonnulls(account, recipient) = 1),
  CONSTRAINT in_a_language CHECK (recipient IS NULL OR language IS NOT NULL)
);
CREATE INDEX outbox_due ON outbox (due_at) WHERE ended_at IS NULL;
CREATE INDEX outbox_ended ON outbox (ended_at) WHERE ended_at IS NOT NULL;

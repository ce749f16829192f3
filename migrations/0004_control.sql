-- What operators do to a sale, and which server its line is registered with.

ALTER TABLE sales
  -- Run id of the Redis server that may give places in this epoch; an older primary gets no further block.
  ADD COLUMN line_run          text,
  ADD COLUMN line_epoch_at     timestamptz,
  ADD COLUMN policy_changed_at timestamptz NOT NULL DEFAULT now(),
  ADD COLUMN policy_changed_by text,
  -- A change that was made for a while: when it ends, and what comes back then.
  ADD COLUMN revert_at         timestamptz,
  ADD COLUMN revert_to         jsonb,
  ADD CONSTRAINT revert_whole CHECK ((revert_at IS NULL) = (revert_to IS NULL));
CREATE INDEX sales_to_revert ON sales (revert_at) WHERE revert_at IS NOT NULL;

-- Every operator action. Each row names the hash of the one before it: a row changed, added or taken out shows.
CREATE TABLE audit (
  sale       text NOT NULL REFERENCES sales (id),
  seq        int NOT NULL CHECK (seq > 0),
  at         timestamptz NOT NULL,
  actor      text NOT NULL,
  action     text NOT NULL,
  "from"     jsonb NOT NULL,
  "to"       jsonb NOT NULL,
  reason     text,
  prev_hash  text NOT NULL,
  hash       text NOT NULL,
  PRIMARY KEY (sale, seq)
);

CREATE FUNCTION audit_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the audit is append only';
END
$$;
CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
  FOR EACH STATEMENT EXECUTE FUNCTION audit_is_append_only();

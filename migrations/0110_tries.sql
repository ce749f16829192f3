-- How much of a budget of tries is used up, by all processes together. Unlogged: a try costs no write-ahead log and no
-- flush, and after a crash of Postgres, or on a standby that was promoted, every budget is whole.
CREATE UNLOGGED TABLE tries (
  budget   text NOT NULL,
  -- A keyed hash of an address, or an account's id.
  name     bytea NOT NULL,
  -- When the budget is whole again; from then on the row says nothing, and is forgotten.
  whole_at timestamptz NOT NULL,
  PRIMARY KEY (budget, name)
);

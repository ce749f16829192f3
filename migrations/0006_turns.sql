-- Turns that ended before their passes did, by leaving or by an operator: a shop that is made anew goes on refusing them.
-- A turn that bought is known by its order, and one that ran out has no good pass.
CREATE TABLE turns_closed (
  sale      text NOT NULL REFERENCES sales (id),
  turn      text NOT NULL,
  why       text NOT NULL CHECK (why IN ('left', 'revoked')),
  closed_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (sale, turn)
);
CREATE INDEX turns_closed_by_age ON turns_closed (closed_at);

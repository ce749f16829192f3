-- What a line looked like, second by second, and whether the waits shown in it came true: for the report of a sale.

CREATE TABLE line_seconds (
  sale          text NOT NULL REFERENCES sales (id) ON DELETE CASCADE,
  epoch         integer NOT NULL,
  seq           bigint NOT NULL,
  at            timestamptz NOT NULL,
  state         text NOT NULL,
  serving       bigint NOT NULL,
  tail          bigint NOT NULL,
  waiting       integer NOT NULL,
  absent        integer NOT NULL,
  admitted      bigint NOT NULL,
  rate_target   double precision NOT NULL,
  active        integer NOT NULL,
  active_max    integer NOT NULL,
  -- null: the shop did not say.
  free          integer,
  held          integer,
  sold          integer,
  reason        text,
  PRIMARY KEY (sale, epoch, seq)
);

-- Totals of one judge (a web process from its start to its end), by length: waits of up to `upto_s` seconds, and longer
-- than half of that. Totals and no steps, so that writing them twice changes nothing.
CREATE TABLE shown_waits (
  sale   text NOT NULL REFERENCES sales (id) ON DELETE CASCADE,
  epoch  integer NOT NULL,
  judge  text NOT NULL,
  upto_s integer NOT NULL CHECK (upto_s > 0),
  ended  integer NOT NULL,
  by_p50 integer NOT NULL,
  by_p90 integer NOT NULL,
  PRIMARY KEY (sale, epoch, judge, upto_s)
);

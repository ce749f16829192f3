-- What providers of payments told us by themselves: hints, each kept once under the id its provider gave it. Whatever it
-- says is asked of the provider before anything changes; so only of whom it speaks is kept.
CREATE TABLE provider_events (
  provider    text NOT NULL,
  event_id    text NOT NULL,
  kind        text NOT NULL,
  -- One of the two: the try to pay, or the order whose one payment it is.
  attempt     text,
  order_id    text,
  received_at timestamptz NOT NULL DEFAULT now(),
  -- When the provider is asked (again): a moment later, for whoever drives the attempt has most likely ended it by then.
  due_at      timestamptz NOT NULL DEFAULT now() + interval '1 second',
  tries       int NOT NULL DEFAULT 0,
  handled_at  timestamptz,
  outcome     text CHECK (outcome IN ('agreed', 'settled', 'refunded', 'contradicted', 'silent')),
  PRIMARY KEY (provider, event_id),
  CHECK ((attempt IS NULL) <> (order_id IS NULL)),
  CHECK ((handled_at IS NULL) = (outcome IS NULL))
);
CREATE INDEX provider_events_due ON provider_events (due_at) WHERE handled_at IS NULL;
CREATE INDEX provider_events_handled ON provider_events (handled_at) WHERE handled_at IS NOT NULL;

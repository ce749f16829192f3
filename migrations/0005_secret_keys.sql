-- Which keys signed tickets, by the name that is derived from each (it tells nothing of the key): so that a key cannot
-- be taken out of the settings while a sale of its time still runs.

CREATE TABLE secret_keys (
  kid      text PRIMARY KEY,
  first_at timestamptz NOT NULL DEFAULT now(),
  -- Until when it was the one that signs.
  last_at  timestamptz NOT NULL DEFAULT now()
);

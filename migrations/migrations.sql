-- What `migrate` itself says to Postgres.

-- lock --
-- One migrator at a time; let go at the end of the transaction, so it also works through a pooler in transaction mode.
SELECT pg_advisory_xact_lock(7241993215);

-- table_create --
-- Which files were applied, and what they said.
CREATE TABLE IF NOT EXISTS migrations (
  file       text PRIMARY KEY,
  digest     text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now()
);

-- digest_of --
-- What an applied file said.
SELECT digest FROM migrations WHERE file = $1;

-- applied_insert --
-- Remember that a file was applied, in the transaction that applied it.
INSERT INTO migrations (file, digest) VALUES ($1, $2);

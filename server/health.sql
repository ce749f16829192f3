-- durability_settings --
-- What decides whether an acknowledged commit survives a crash, as this connection has it.
SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit');

-- now_ms --
-- Postgres's clock in Unix milliseconds.
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint;

-- durability_settings --
-- What decides whether an acknowledged commit survives a crash, as this connection has it.
SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit');

-- now_ms --
-- Postgres's clock in Unix milliseconds.
SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint;

-- secret_key_note --
-- This key signs now.
INSERT INTO secret_keys (kid) VALUES ($1) ON CONFLICT (kid) DO UPDATE SET last_at = now();

-- secret_keys_missed --
-- Keys that are not among ours any more, with a sale that was there in their time and has not ended.
SELECT k.kid, min(s.id) AS sale
FROM secret_keys k
JOIN sales s ON s.id <> '_shop' AND s.created_at <= k.last_at AND coalesce(s.closed_at, s.closes_at) > now()
WHERE k.kid <> ALL ($1::text[])
GROUP BY k.kid
ORDER BY k.kid;

-- letter_insert --
-- A letter to be sent; no row back means that this cause has written one already.
INSERT INTO outbox (id, once_key, kind, account, recipient, language, params, due_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, coalesce($8, now()), coalesce($8, now()) + make_interval(secs => $9))
ON CONFLICT (once_key) DO NOTHING
RETURNING id;

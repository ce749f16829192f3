-- requests_take --
-- Requests for letters, the oldest first, taken out for good if this transaction stands; $1 at most.
DELETE FROM letter_requests
 WHERE id IN (SELECT id FROM letter_requests ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING id, kind, email_hashes, language, account, payload;

-- account_asked_for --
-- Who has an address, and how many letters they were sent in the last hour; one request of an account at a time.
SELECT a.id, a.email_hash, a.data_key, a.verified_at IS NOT NULL AS is_verified,
       (SELECT count(*) FROM outbox o
         WHERE o.account = a.id AND o.created_at > now() - interval '1 hour' AND o.kind = ANY ($2::text[])) AS letters
  FROM accounts a
 WHERE a.email_hash = ANY ($1::bytea[]) AND a.deleted_at IS NULL
   FOR UPDATE;

-- account_replace --
-- Somebody signs up with an address whose account nobody has verified: what they say now counts.
UPDATE accounts SET password_hash = $2, name = $3, phone = $4, language = $5, updated_at = now()
 WHERE id = $1 AND verified_at IS NULL;

-- sessions_replace --
-- And whoever signed in with what was said before is out.
UPDATE sessions SET revoked_at = now(), revoked_for = 'password' WHERE account = $1 AND revoked_at IS NULL;

-- reset_issue --
-- A way to choose a new password, good for $3 seconds; the one before is good no longer.
INSERT INTO password_resets (token_hash, account, expires_at) VALUES ($1, $2, now() + make_interval(secs => $3))
ON CONFLICT (account) DO UPDATE SET token_hash = excluded.token_hash, expires_at = excluded.expires_at;

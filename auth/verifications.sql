-- code_issue --
-- A new code for an address, good for $3 seconds; the one before is good no longer, and tries begin anew.
INSERT INTO verifications (email_hash, code_hash, tries, expires_at)
VALUES ($1, $2, 0, now() + make_interval(secs => $3))
ON CONFLICT (email_hash) DO UPDATE SET code_hash = excluded.code_hash, tries = 0, expires_at = excluded.expires_at;

-- code_try --
-- Use up one try at an address, known or not, at the same cost; answers the code's hash while it may still be tried.
INSERT INTO verifications AS v (email_hash, tries, expires_at) VALUES ($1, 1, now() + make_interval(secs => $3))
ON CONFLICT (email_hash) DO UPDATE SET tries = v.tries + 1
RETURNING CASE WHEN tries <= $2 AND expires_at > now() THEN code_hash END;

-- code_use --
-- The code was right: it is used; no row back means that somebody else used it, or it was replaced.
UPDATE verifications SET code_hash = NULL WHERE email_hash = $1 AND code_hash = $2 RETURNING email_hash;

-- account_verify --
-- The address is its owner's. No row back means that the account was deleted.
UPDATE accounts SET verified_at = coalesce(verified_at, now()), updated_at = now()
 WHERE email_hash = ANY ($1::bytea[]) AND deleted_at IS NULL
RETURNING id;

-- codes_forget --
-- Drop what ran out an hour ago; $1 at most.
DELETE FROM verifications
 WHERE email_hash IN (SELECT email_hash FROM verifications WHERE expires_at < now() - interval '1 hour'
                       LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING email_hash;

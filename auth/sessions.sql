-- session_insert --
-- A sign-in: the first of a family of refresh tokens. No row back means that the account was deleted, or its password
-- changed, since that was found right: whoever changes it waits for this, and then ends it with all others.
INSERT INTO sessions (id, account, device, address, refresh_hash, expires_at, access_until)
SELECT $1, a.id, $3, $4, $5, now() + make_interval(secs => $6), now() + make_interval(secs => $7)
  FROM accounts a
 WHERE a.id = $2 AND a.deleted_at IS NULL AND ($8::text IS NULL OR a.password_hash = $8)
   FOR SHARE OF a
RETURNING id;

-- sessions_lock --
-- One sign-in of an account at a time, where it may have but one session.
SELECT id FROM accounts WHERE id = $1 FOR NO KEY UPDATE;

-- sessions_living --
-- Whether an account is signed in anywhere.
SELECT EXISTS (SELECT FROM sessions
                WHERE account = $1 AND revoked_at IS NULL AND expires_at > now() AND refresh_hash IS NOT NULL);

-- session_rotate --
-- Put the next refresh token in the place of the one presented; no row back means it is not the one good now.
-- The family never outlives $6 seconds from its sign-in, however often it is used.
UPDATE sessions s
   SET refresh_hash = $3, parent_hash = $2, rotated_at = now(), used_at = now(), address = coalesce($7, s.address),
       expires_at = least(now() + make_interval(secs => $5), s.created_at + make_interval(secs => $6)),
       access_until = greatest(s.access_until, now() + make_interval(secs => $4))
  FROM accounts a
 WHERE s.id = $1 AND s.refresh_hash = $2 AND s.revoked_at IS NULL AND s.expires_at > now()
   AND a.id = s.account AND a.deleted_at IS NULL
RETURNING s.account, a.role, a.verified_at IS NOT NULL AS is_verified,
          extract(epoch FROM s.expires_at - now())::int AS expires_in_s;

-- session_grace --
-- The same session for the immediate parent of the good token, within the grace; its successor is answered again.
UPDATE sessions s
   SET access_until = greatest(s.access_until, now() + make_interval(secs => $4))
  FROM accounts a
 WHERE s.id = $1 AND s.parent_hash = $2 AND s.revoked_at IS NULL AND s.expires_at > now()
   AND s.rotated_at > now() - make_interval(secs => $3)
   AND a.id = s.account AND a.deleted_at IS NULL
RETURNING s.account, a.role, a.verified_at IS NOT NULL AS is_verified, s.refresh_hash,
          extract(epoch FROM s.expires_at - now())::int AS expires_in_s;

-- session_revoke --
-- End one session of an account; no row back means it is not the account's. An ended one stays as it was.
UPDATE sessions SET revoked_at = coalesce(revoked_at, now()), revoked_for = coalesce(revoked_for, $3)
 WHERE id = $1 AND account = $2
RETURNING id, (extract(epoch FROM access_until) * 1000)::bigint AS until_ms;

-- session_revoke_family --
-- End a session because a used-up refresh token of it was presented; no row back means it had ended before.
UPDATE sessions SET revoked_at = now(), revoked_for = 'reuse'
 WHERE id = $1 AND revoked_at IS NULL
RETURNING id, (extract(epoch FROM access_until) * 1000)::bigint AS until_ms;

-- sessions_revoke_all --
-- End every session of an account.
UPDATE sessions SET revoked_at = now(), revoked_for = $2
 WHERE account = $1 AND revoked_at IS NULL
RETURNING id, (extract(epoch FROM access_until) * 1000)::bigint AS until_ms;

-- sessions_page --
-- Living sessions of an account, newest first, after a cursor.
SELECT id, device, address, created_at, used_at, expires_at
  FROM sessions
 WHERE account = $1 AND revoked_at IS NULL AND expires_at > now() AND ($2::text IS NULL OR id < $2)
 ORDER BY id DESC
 LIMIT $3;

-- sessions_revoked_since --
-- Sessions ended since $1 (null = ever, with $2 milliseconds of overlap) that may still have a good access token.
SELECT now() AS asked_at,
       coalesce(array_agg(r.id), '{}') AS sessions,
       coalesce(array_agg(r.until_ms), '{}') AS until_ms
  FROM (SELECT id, (extract(epoch FROM access_until) * 1000)::bigint AS until_ms
          FROM sessions
         WHERE revoked_at > coalesce($1::timestamptz, '-infinity') - make_interval(secs => $2::int / 1000.0)
           AND access_until > now()) r;

-- sessions_forget --
-- Drop sessions that ran out or were ended a day ago and whose last access token did too; $1 at most.
DELETE FROM sessions
 WHERE id IN (SELECT id FROM sessions
               WHERE access_until < now() - interval '1 day'
                 AND least(expires_at, revoked_at) < now() - interval '1 day'
               LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING id;

-- load_sessions_ensure --
-- One session without a refresh token for each of the accounts that has none, in bulk; $2 are their ids.
INSERT INTO sessions (id, account, expires_at, access_until)
SELECT n.id, n.account, now() + make_interval(secs => $3), now() + make_interval(secs => $3)
  FROM unnest($1::text[], $2::text[]) AS n (account, id)
 WHERE NOT EXISTS (SELECT FROM sessions s
                    WHERE s.account = n.account AND s.refresh_hash IS NULL AND s.revoked_at IS NULL);

-- load_sessions_extend --
-- Let those sessions live as long as the tokens about to be made for them.
UPDATE sessions
   SET expires_at = greatest(expires_at, now() + make_interval(secs => $2)),
       access_until = greatest(access_until, now() + make_interval(secs => $2))
 WHERE account = ANY ($1::text[]) AND refresh_hash IS NULL AND revoked_at IS NULL
RETURNING account, id;

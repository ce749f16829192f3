-- letters_due --
-- Whether any letter waits to be sent.
SELECT EXISTS (SELECT FROM outbox WHERE ended_at IS NULL AND due_at <= now());

-- letters_claim --
-- Letters that are due, for this mailer alone during $2 seconds; $1 at most. Past its time a letter is only ended.
UPDATE outbox
   SET due_at = now() + make_interval(secs => $2), tries = tries + 1
 WHERE id IN (SELECT id FROM outbox WHERE ended_at IS NULL AND due_at <= now()
               ORDER BY due_at LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING id, kind, account, recipient, language, params, tries, expires_at <= now() AS is_expired;

-- letter_end --
-- The letter has ended in this way; what it said is erased.
UPDATE outbox SET ended_at = now(), outcome = $2, recipient = NULL, params = NULL
 WHERE id = $1 AND ended_at IS NULL
RETURNING id;

-- letter_postpone --
-- Try again in $2 seconds.
UPDATE outbox SET due_at = now() + make_interval(secs => $2) WHERE id = $1 AND ended_at IS NULL RETURNING id;

-- letters_forget --
-- Drop letters that ended $2 days ago; $1 at most.
DELETE FROM outbox
 WHERE id IN (SELECT id FROM outbox WHERE ended_at < now() - make_interval(days => $2) LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING id;

-- sale_lock --
-- One sale as operators see it, locked: changes of a sale happen one after the other.
SELECT policy::text AS policy, policy_version, paused_by, revert_to::text AS revert_to, message::text AS message,
       opened_at, closed_at, draining_at, cancelled_at, closes_at, now() AS at,
       (extract(epoch FROM coalesce(opened_at, opens_at - make_interval(secs => offset_ms / 1000.0))) * 1000)::bigint
         AS opens_at_ms,
       (extract(epoch FROM closes_at - make_interval(secs => offset_ms / 1000.0)) * 1000)::bigint AS closes_at_ms,
       (extract(epoch FROM now()) * 1000)::bigint AS now_ms
  FROM sales CROSS JOIN clock WHERE id = $1 AND id <> '_shop' FOR UPDATE OF sales;

-- admission --
-- The settings of a sale's line with who changed them last.
SELECT policy::text AS policy, policy_version, paused_by, policy_changed_by,
       (extract(epoch FROM policy_changed_at) * 1000)::bigint AS changed_at_ms,
       (extract(epoch FROM revert_at) * 1000)::bigint AS revert_at_ms
  FROM sales WHERE id = $1 AND id <> '_shop';

-- policy_set --
-- Other settings; the row is locked and its version was compared.
UPDATE sales SET policy = $2::jsonb, policy_version = policy_version + 1, paused_by = $3, policy_changed_at = now(),
       policy_changed_by = $4, revert_at = now() + $5 * interval '1 second', revert_to = $6::jsonb, updated_at = now()
 WHERE id = $1;

-- pause_set --
-- Who holds the line; the rest of the settings stays, also what comes back later. A pause for a while ends with it.
UPDATE sales SET paused_by = $2, revert_to = nullif(revert_to - 'paused', policy),
       revert_at = CASE WHEN revert_to - 'paused' <> policy THEN revert_at END, policy_version = policy_version + 1, policy_changed_at = now(), policy_changed_by = $3,
       updated_at = now()
 WHERE id = $1;

-- opening_set --
-- Open now, whatever the schedule says.
UPDATE sales SET opened_at = now(), closed_at = NULL, draining_at = NULL, updated_at = now() WHERE id = $1;

-- draining_end --
-- Let people join again.
UPDATE sales SET draining_at = NULL, updated_at = now() WHERE id = $1;

-- closing_set --
-- Close now, whatever the schedule says.
UPDATE sales SET closed_at = now(), updated_at = now() WHERE id = $1;

-- cancellation_set --
-- Cancelled for good, whatever the schedule says; no row back: it was before.
UPDATE sales SET cancelled_at = now(), cancel_next_at = now(), cancel_key = $2, cancel_digest = $3,
                 closed_at = coalesce(closed_at, now()), updated_at = now()
 WHERE id = $1 AND cancelled_at IS NULL
RETURNING true;

-- draining_set --
-- Nobody joins any more.
UPDATE sales SET draining_at = now(), updated_at = now() WHERE id = $1;

-- message_set --
-- What every waiting buyer reads.
UPDATE sales SET message = $2::jsonb, updated_at = now() WHERE id = $1;

-- sales_to_revert --
-- Sales whose change was made for a while that is over.
SELECT id FROM sales WHERE revert_at <= now();

-- revert --
-- What was before comes back; no row back means it was done already, or changed again.
UPDATE sales SET policy = revert_to - 'paused', paused_by = CASE revert_to ->> 'paused'
         WHEN 'true' THEN array_append(array_remove(paused_by, 'operator'), 'operator')
         WHEN 'false' THEN array_remove(paused_by, 'operator')
         ELSE paused_by END, policy_version = policy_version + 1, policy_changed_at = now(),
       policy_changed_by = $2, revert_at = NULL, revert_to = NULL, updated_at = now()
 WHERE id = $1 AND revert_at <= now()
RETURNING policy::text AS policy, paused_by;

-- audit_last --
-- The end of a sale's chain.
SELECT seq, hash FROM audit WHERE sale = $1 ORDER BY seq DESC LIMIT 1;

-- audit_insert --
-- One more operator action; the primary key refuses a second one with this number.
INSERT INTO audit (sale, seq, at, actor, action, "from", "to", reason, prev_hash, hash)
VALUES ($1, $2, $3, $4, $5, $6::jsonb, $7::jsonb, $8, $9, $10);

-- audit_page --
-- Operator actions, newest first, before a number.
SELECT seq, at, actor, action, "from"::text AS before, "to"::text AS after, reason, prev_hash, hash
  FROM audit WHERE sale = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3;

-- audit_all --
-- A sale's whole chain, oldest first.
SELECT seq, at, actor, action, "from"::text AS before, "to"::text AS after, reason, prev_hash, hash
  FROM audit WHERE sale = $1 ORDER BY seq;

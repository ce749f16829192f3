-- sessions_device_stale --
-- Values of sessions.device under another secret than the one with this id, after $2 in the order of id; $3 at most.
SELECT id AS id, device AS sealed FROM sessions
 WHERE id > $2 AND device IS NOT NULL AND get_byte(device, 0) = 1 AND substring(device FROM 2 FOR 4) <> $1
 ORDER BY id LIMIT $3;

-- sessions_device_renew --
-- The same under the newest, unless it was written meanwhile.
UPDATE sessions SET device = $3 WHERE id = $1 AND device = $2 RETURNING id;

-- sessions_address_stale --
-- Values of sessions.address under another secret than the one with this id, after $2 in the order of id; $3 at most.
SELECT id AS id, address AS sealed FROM sessions
 WHERE id > $2 AND address IS NOT NULL AND get_byte(address, 0) = 1 AND substring(address FROM 2 FOR 4) <> $1
 ORDER BY id LIMIT $3;

-- sessions_address_renew --
-- The same under the newest, unless it was written meanwhile.
UPDATE sessions SET address = $3 WHERE id = $1 AND address = $2 RETURNING id;

-- outbox_recipient_stale --
-- Values of outbox.recipient under another secret than the one with this id, after $2 in the order of id; $3 at most.
SELECT id AS id, recipient AS sealed FROM outbox
 WHERE id > $2 AND recipient IS NOT NULL AND get_byte(recipient, 0) = 1 AND substring(recipient FROM 2 FOR 4) <> $1
 ORDER BY id LIMIT $3;

-- outbox_recipient_renew --
-- The same under the newest, unless it was written meanwhile.
UPDATE outbox SET recipient = $3 WHERE id = $1 AND recipient = $2 RETURNING id;

-- outbox_params_stale --
-- Values of outbox.params under another secret than the one with this id, after $2 in the order of id; $3 at most.
SELECT id AS id, params AS sealed FROM outbox
 WHERE id > $2 AND params IS NOT NULL AND get_byte(params, 0) = 1 AND substring(params FROM 2 FOR 4) <> $1
 ORDER BY id LIMIT $3;

-- outbox_params_renew --
-- The same under the newest, unless it was written meanwhile.
UPDATE outbox SET params = $3 WHERE id = $1 AND params = $2 RETURNING id;

-- letter_requests_payload_stale --
-- Values of letter_requests.payload under another secret than the one with this id, after $2 in the order of id; $3 at most.
SELECT id AS id, payload AS sealed FROM letter_requests
 WHERE id > $2 AND payload IS NOT NULL AND get_byte(payload, 0) = 1 AND substring(payload FROM 2 FOR 4) <> $1
 ORDER BY id LIMIT $3;

-- letter_requests_payload_renew --
-- The same under the newest, unless it was written meanwhile.
UPDATE letter_requests SET payload = $3 WHERE id = $1 AND payload = $2 RETURNING id;

-- addresses_sealed_stale --
-- Values of addresses.sealed under another secret than the one with this id, after $2 in the order of id; $3 at most.
SELECT id AS id, sealed AS sealed FROM addresses
 WHERE id > $2 AND sealed IS NOT NULL AND get_byte(sealed, 0) = 1 AND substring(sealed FROM 2 FOR 4) <> $1
 ORDER BY id LIMIT $3;

-- addresses_sealed_renew --
-- The same under the newest, unless it was written meanwhile.
UPDATE addresses SET sealed = $3 WHERE id = $1 AND sealed = $2 RETURNING id;

-- sign_up --
-- An account for a free address ($4: by any of its hashes), and in every case a request for the letter that says how to go on.
WITH made AS (
  INSERT INTO accounts (id, email, email_hash, name, phone, password_hash, data_key, language)
  SELECT $2, $5, ($4::bytea[])[1], $6, $7, $8, $9, $10
   WHERE NOT EXISTS (SELECT FROM accounts WHERE email_hash = ANY ($4::bytea[]))
  ON CONFLICT (email_hash) DO NOTHING)
INSERT INTO letter_requests (id, kind, email_hashes, language, account, payload)
VALUES ($1, 'sign_up', $4, $10, $2, $3);

-- letter_request --
-- Somebody asks for a letter to an address, whoever has it.
INSERT INTO letter_requests (id, kind, email_hashes, language) VALUES ($1, $2, $3, $4);

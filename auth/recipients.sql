-- recipient_show --
-- Where a living account's letters go.
SELECT email, data_key, language FROM accounts WHERE id = $1 AND deleted_at IS NULL AND email IS NOT NULL;

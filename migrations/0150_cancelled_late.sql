-- What was bought in a cancelled sale may be recorded after all that was recorded is cancelled: sales that are done are
-- looked at again, too.
DROP INDEX sales_to_cancel;
CREATE INDEX sales_to_cancel ON sales (cancel_next_at) WHERE cancelled_at IS NOT NULL;
UPDATE sales SET cancel_next_at = now() WHERE cancel_done_at IS NOT NULL;

-- A sale that is cancelled whole: it stays closed, and all that was bought in it is given back, order by order.
ALTER TABLE sales
  ADD COLUMN cancelled_at      timestamptz,
  ADD COLUMN cancel_key        text,
  ADD COLUMN cancel_digest     text,
  -- When the next of its orders may be cancelled, and when the last one was.
  ADD COLUMN cancel_next_at    timestamptz,
  ADD COLUMN cancel_done_at    timestamptz;
CREATE INDEX sales_to_cancel ON sales (cancel_next_at) WHERE cancelled_at IS NOT NULL AND cancel_done_at IS NULL;

-- Whether a sale was cancelled: nothing of it is shipped any more.
CREATE FUNCTION is_called_off(sale text) RETURNS boolean STABLE LANGUAGE sql AS $$
  SELECT cancelled_at IS NOT NULL FROM sales WHERE id = sale
$$;

-- Whether somebody was let in with an entry of this order: it is neither cancelled nor sent back then.
CREATE FUNCTION is_redeemed(bought text) RETURNS boolean STABLE LANGUAGE sql AS $$
  SELECT EXISTS (SELECT FROM entries WHERE order_id = bought AND redeemed_at IS NOT NULL)
$$;

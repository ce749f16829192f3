-- verdicts_of --
-- What the record says of events that somebody waits for: recorded (with why it was refused, if it was), fenced off, or
-- nothing yet. Ids are compared as pairs of numbers. Joins, not a look-up for each: a plan made while refusals were few
-- must hold when they are ten thousand.
SELECT n.at,
       string_to_array(w.upto, '-')::bigint[] >= string_to_array(n.event_id, '-')::bigint[] AS is_recorded,
       w.closed_at IS NOT NULL AS is_closed,
       coalesce(r.reason, CASE WHEN p.event_id IS NOT NULL THEN 'state' END) AS refused
  FROM unnest($1::int[], $2::text[], $3::text[], $4::int[], $5::text[], $6::text[])
       AS n (at, sale, stream, epoch, event_id, order_id)
  JOIN watermarks w ON w.sale = n.sale AND w.stream = n.stream AND w.epoch = n.epoch
  LEFT JOIN refusals r ON r.order_id = n.order_id AND r.epoch = n.epoch AND r.event_id = n.event_id
  LEFT JOIN poison p ON p.sale = n.sale AND p.stream = n.stream AND p.epoch = n.epoch AND p.event_id = n.event_id;

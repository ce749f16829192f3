-- line_take_again --
-- Name the server that the line of this epoch is registered with, and reserve places above all that were ever given.
UPDATE sales SET line_run = $3, place_ceiling = place_ceiling + $4
 WHERE id = $1 AND line_epoch = $2
RETURNING place_ceiling;

-- line_take_anew --
-- Begin the next epoch of a line; no row back means another keeper did, and has a little time to finish.
UPDATE sales SET line_run = $3, place_ceiling = place_ceiling + $4, line_epoch = line_epoch + 1, line_epoch_at = now()
 WHERE id = $1 AND line_epoch = $2 AND coalesce(line_epoch_at < now() - $5 * interval '1 millisecond', true)
RETURNING line_epoch, place_ceiling;

-- admissions_of_sale --
-- Whom the record saw let in, oldest first.
SELECT epoch, (extract(epoch FROM at) * 1000)::bigint AS at_ms, places
  FROM admissions WHERE sale = $1
 ORDER BY at, event_id;

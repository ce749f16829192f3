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

-- admissions_sum --
-- How many the record saw let in, the highest of their places, and how far it has read this epoch's stream.
SELECT coalesce(sum(cardinality(a.places)), 0)::bigint AS admitted,
       coalesce(max((SELECT max(place) FROM unnest(a.places) AS place)), 0)::bigint AS serving,
       coalesce((SELECT upto FROM watermarks WHERE sale = $1 AND stream = 'admissions' AND epoch = $2), '0-0') AS upto
  FROM admissions a WHERE a.sale = $1;

-- line_document --
-- The newest document that was seen of a line in this epoch.
SELECT seq FROM line_documents WHERE sale = $1 AND epoch = $2;

-- admissions_of_sale --
-- Whom the record saw let in, oldest first. By event ids, which never go back as a clock may.
SELECT epoch, (extract(epoch FROM at) * 1000)::bigint AS at_ms, places
  FROM admissions WHERE sale = $1
 ORDER BY epoch, string_to_array(event_id, '-')::bigint[];

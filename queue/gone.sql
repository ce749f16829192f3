-- gone_keep --
-- Copy chunks of a line's bitmap; a line of an older epoch, or an older copy, changes nothing.
INSERT INTO places_gone (sale, chunk, bits, places)
SELECT s.id, c.chunk, c.bits, bit_count(c.bits)::integer
  FROM sales s CROSS JOIN unnest($3::integer[], $4::bytea[]) AS c (chunk, bits)
 WHERE s.id = $1 AND s.line_epoch = $2 AND bit_count(c.bits) > 0
    ON CONFLICT (sale, chunk) DO UPDATE SET bits = excluded.bits, places = excluded.places
 WHERE places_gone.places < excluded.places;

-- documents_keep --
-- The newest document seen of each line; one of an older epoch, or an older one, changes nothing.
INSERT INTO line_documents (sale, epoch, seq)
SELECT s.id, s.line_epoch, d.seq
  FROM unnest($1::text[], $2::integer[], $3::bigint[]) AS d (sale, epoch, seq)
  JOIN sales s ON s.id = d.sale AND s.line_epoch = d.epoch
    ON CONFLICT (sale) DO UPDATE SET epoch = excluded.epoch, seq = excluded.seq
 WHERE (line_documents.epoch, line_documents.seq) < (excluded.epoch, excluded.seq);

-- gone_of_sale --
-- Every chunk of a sale.
SELECT chunk, bits FROM places_gone WHERE sale = $1 ORDER BY chunk;

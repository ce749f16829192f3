-- products_unindexed --
-- Products whose titles are not cut yet, for one indexer at a time.
SELECT id, no, title FROM products WHERE grams IS NULL AND deleted_at IS NULL ORDER BY no LIMIT $1 FOR UPDATE SKIP LOCKED;

-- grams_delete --
-- Before others are written.
DELETE FROM product_grams WHERE no = ANY($1::bigint[]);

-- grams_insert --
-- Which product has which.
INSERT INTO product_grams (gram, no) SELECT * FROM unnest($1::text[], $2::bigint[]) ON CONFLICT DO NOTHING;

-- grams_note --
-- What a product has, whole.
UPDATE products SET grams = $2 WHERE no = $1;

-- grams_common --
-- The most common grams and their shares, as Postgres last counted them.
SELECT most_common_vals::text::text[] AS grams, most_common_freqs AS shares
  FROM pg_stats WHERE schemaname = current_schema() AND tablename = 'product_grams' AND attname = 'gram';

-- products_search --
-- Products by how much of what was asked their titles have, then newest first. Of each rare gram the newest thousand
-- are looked at, of these the 300 with most of them are judged whole: however common a word is, it costs no more. Prices are those
-- of the moment.
WITH likely AS MATERIALIZED (
  SELECT c.no
    FROM unnest($1::text[]) AS rare (gram)
   CROSS JOIN LATERAL (SELECT g.no FROM product_grams g WHERE g.gram = rare.gram ORDER BY g.no DESC LIMIT 1000) AS c
   GROUP BY c.no ORDER BY count(*) DESC, c.no DESC LIMIT 300
), judged AS MATERIALIZED (
  SELECT d.*, (SELECT count(*) FROM unnest(p.grams) AS u WHERE u = ANY($2::text[]))::int * 1000 / cardinality($2) AS score
    FROM likely l JOIN products p ON p.no = l.no JOIN product_details d ON d.product = p.id
   WHERE NOT d.is_deleted
     AND d.is_discontinued = (coalesce($4, '') = 'discontinued')
     AND ($5::text IS NULL OR d.vendor = $5)
     AND ($6::bigint IS NULL OR d.amount >= $6 AND NOT EXISTS (SELECT FROM reduced_now r WHERE r.product = d.product AND r.amount < $6))
     AND ($7::bigint IS NULL OR d.amount <= $7 OR EXISTS (SELECT FROM reduced_now r WHERE r.product = d.product AND r.amount <= $7))
     AND CASE $4 WHEN 'on_sale' THEN d.product = ANY($8::text[])
                 WHEN 'available' THEN d.units_left > 0 AND d.product <> ALL($8::text[])
                 WHEN 'out_of_stock' THEN d.units_left <= 0 AND d.product <> ALL($8::text[])
                 ELSE true END
)
SELECT * FROM judged
 WHERE score >= $9 AND ($10::int IS NULL OR (score, no) < ($10, $11::bigint))
 ORDER BY score DESC, no DESC
 LIMIT $3;

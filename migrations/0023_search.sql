-- Which products have which grams in their titles: a search that forgives typos, in Hangul too. Not pg_trgm: under the C
-- locale, which we sort by, it drops every letter that is not ASCII; and one wrong vowel of a Korean word of two syllables
-- leaves it nothing to match. Ours are cut from letters, syllables taken apart (`catalog/grams.py`).
CREATE TABLE product_grams (
  gram text COLLATE "C" NOT NULL,
  no   bigint NOT NULL,
  PRIMARY KEY (gram, no)
);
CREATE INDEX product_grams_of_product ON product_grams (no);
-- How common a gram is decides what is looked for first.
ALTER TABLE product_grams ALTER COLUMN gram SET STATISTICS 1000;

-- Null: to be cut by the indexer.
ALTER TABLE products ADD COLUMN grams text[] COLLATE "C";
CREATE INDEX products_to_index ON products (no) WHERE grams IS NULL AND deleted_at IS NULL;

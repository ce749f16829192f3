-- Places that had their turn, left or expired, as bits by place, copied from the line's Redis each second: after a loss
-- their tickets are not taken back. A chunk is 4,096 bytes; bit 0 of a byte is its highest, as Redis counts.
CREATE TABLE places_gone (
  sale   text    NOT NULL REFERENCES sales (id) ON DELETE CASCADE,
  chunk  integer NOT NULL CHECK (chunk >= 0),
  bits   bytea   NOT NULL CHECK (length(bits) BETWEEN 1 AND 4096),
  -- Bits that are set: they are never taken back, so of two copies the fuller one is the newer.
  places integer NOT NULL CHECK (places > 0),
  PRIMARY KEY (sale, chunk)
);

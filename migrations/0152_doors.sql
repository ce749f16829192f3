-- Whose door let somebody in, so that a door's own are found however many were let in elsewhere. Empty: the house's.
ALTER TABLE entries ADD COLUMN door text;
UPDATE entries e SET door = coalesce(l.vendor, '')
  FROM entry_lines l WHERE e.redeemed_at IS NOT NULL AND l.order_id = e.order_id AND l.product = e.product;
CREATE INDEX entries_of_door ON entries (door, redeemed_at DESC) WHERE redeemed_at IS NOT NULL;

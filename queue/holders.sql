-- holder_add --
-- One more holds the line; nothing changes for one that does already.
UPDATE sales SET paused_by = array_append(paused_by, $2), updated_at = now()
 WHERE id = $1 AND NOT $2 = ANY (paused_by);

-- holder_remove --
-- One holder lets go; the others stay.
UPDATE sales SET paused_by = array_remove(paused_by, $2), updated_at = now() WHERE id = $1 AND $2 = ANY (paused_by);

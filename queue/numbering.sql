-- place_ceiling_raise --
-- Reserve the next block of places; no row back means somebody else just did, or the line is of a newer epoch, or was
-- registered with another server: an old primary that is still talked to gets no further number.
UPDATE sales SET place_ceiling = place_ceiling + $5
 WHERE id = $1 AND line_epoch = $2 AND line_run = $3 AND place_ceiling <= $4
RETURNING place_ceiling;

-- place_ceiling --
-- How far places may be given in this epoch on this server.
SELECT place_ceiling FROM sales WHERE id = $1 AND line_epoch = $2 AND line_run = $3;

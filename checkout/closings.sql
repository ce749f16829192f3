-- closings_keep --
-- Turns that ended while their passes may still be good; those of a day ago are good no more. Answers the new ones.
WITH forgotten AS (DELETE FROM turns_closed WHERE closed_at < now() - interval '1 day')
INSERT INTO turns_closed (sale, turn, why)
SELECT $1, n.turn, n.why FROM unnest($2::text[], $3::text[]) AS n (turn, why)
ON CONFLICT (sale, turn) DO NOTHING
RETURNING turn;

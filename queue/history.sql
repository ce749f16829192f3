-- seconds_keep --
-- Documents of lines in the epoch that is theirs now; another process may have kept the same ones.
INSERT INTO line_seconds
SELECT r.* FROM jsonb_populate_recordset(NULL::line_seconds, $1::jsonb) AS r
  JOIN sales s ON s.id = r.sale AND s.line_epoch = r.epoch
    ON CONFLICT DO NOTHING;

-- waits_keep --
-- What one judge has seen so far, of lines in the epoch that is theirs now. Totals only grow.
INSERT INTO shown_waits
SELECT r.* FROM jsonb_populate_recordset(NULL::shown_waits, $1::jsonb) AS r
  JOIN sales s ON s.id = r.sale AND s.line_epoch = r.epoch
    ON CONFLICT (sale, epoch, judge, upto_s)
    DO UPDATE SET ended = excluded.ended, by_p50 = excluded.by_p50, by_p90 = excluded.by_p90
 WHERE shown_waits.ended < excluded.ended;

-- Who wants a letter before a sale starts.

-- Sales that start by their schedule, as the shop's clock has it; what an operator opened or closed has no start to wait for.
CREATE VIEW coming_sales AS
SELECT s.id AS sale, s.title, s.opens_at, s.opens_at - make_interval(secs => c.offset_ms / 1000.0) AS starts_at
  FROM sales s CROSS JOIN clock c
 WHERE s.id <> '_shop' AND s.approved_at IS NOT NULL AND s.opened_at IS NULL AND s.closed_at IS NULL;

CREATE TABLE alarms (
  account  text NOT NULL REFERENCES accounts (id),
  sale     text NOT NULL REFERENCES sales (id),
  -- Orders the list, newest first.
  no       bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
  made_at  timestamptz NOT NULL DEFAULT now(),
  -- The start (`sales.opens_at`) that the last letter told of, and when it was written: a sale that is moved is told anew.
  told_for timestamptz,
  told_at  timestamptz,
  PRIMARY KEY (account, sale),
  CHECK ((told_for IS NULL) = (told_at IS NULL))
);
CREATE INDEX alarms_of_account ON alarms (account, no DESC);
CREATE INDEX alarms_of_sale ON alarms (sale, told_for);

-- With what is to be expected of it: a letter, nothing more because it was written, nothing at all.
CREATE VIEW alarm_details AS
SELECT a.account, a.sale, a.no, s.title,
       (extract(epoch FROM a.made_at) * 1000)::bigint AS made_at_ms,
       (extract(epoch FROM coalesce(c.starts_at, s.opens_at)) * 1000)::bigint AS starts_at_ms,
       (extract(epoch FROM a.told_at) * 1000)::bigint AS told_at_ms,
       CASE WHEN c.starts_at > now() AND a.told_for IS DISTINCT FROM c.opens_at THEN 'waiting'
            WHEN a.told_at IS NOT NULL THEN 'sent'
            ELSE 'over' END AS state
  FROM alarms a JOIN sales s ON s.id = a.sale LEFT JOIN coming_sales c ON c.sale = a.sale;

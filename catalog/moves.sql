-- item_ensure --
-- The shop's item of a product, which holds its units. A new one waits for a rebuild that has begun to read the shop's
-- items: it would not be among them, but the move of its first units would be taken for counted.
INSERT INTO sale_items (sale, product, title, amount, list_amount, currency, stock)
SELECT s.id, p.id, p.title, p.amount, p.amount, p.currency, 0 FROM products p JOIN sales s ON s.id = '_shop'
 WHERE p.id = $1 AND NOT EXISTS (SELECT FROM sale_items i WHERE i.sale = '_shop' AND i.product = p.id)
   FOR SHARE OF s
ON CONFLICT DO NOTHING;

-- move_of --
-- One move, whoever asked for it.
SELECT id, sale, product, quantity, why, state, target, applied_epoch FROM stock_moves WHERE id = $1;

-- move_come --
-- Units that come, counted from now on. No row back: this move is known already.
WITH move AS (
  INSERT INTO stock_moves (id, sale, product, quantity, why) VALUES ($1, $2, $3, $4, $5)
  ON CONFLICT (id) DO NOTHING RETURNING sale, product, quantity
)
UPDATE sale_items i SET stock = i.stock + m.quantity FROM move m WHERE i.sale = m.sale AND i.product = m.product
RETURNING i.stock;

-- move_ask --
-- Units that shall leave; nothing is counted before they are taken. No row back: this move is known already.
INSERT INTO stock_moves (id, sale, product, quantity, why, state, target) VALUES ($1, $2, $3, $4, $5, 'asked', $6)
ON CONFLICT (id) DO NOTHING RETURNING id;

-- moves_pending --
-- Moves that one side has not counted, with the epoch of the keys that they concern: read together, so that whoever
-- carries one out speaks of the keys that this snapshot saw, and is refused by any that were made later. Units of an
-- order that come back are checkout's to carry.
SELECT m.id, m.sale, m.product, m.quantity, m.state, s.shop_epoch AS epoch
  FROM stock_moves m JOIN sales s ON s.id = m.sale
 WHERE m.applied_epoch IS NULL AND m.state <> 'refused' AND m.order_id IS NULL AND s.shop_epoch > 0
   AND ($1::text[] IS NULL
        OR (m.sale, m.product) IN (SELECT n.sale, n.product FROM stock_moves n WHERE n.id = ANY($1)))
 ORDER BY m.created_at, m.id
 LIMIT $2;

-- epoch_hold --
-- The seller's epoch, which nobody raises before this transaction ends.
SELECT shop_epoch FROM sales WHERE id = $1 FOR SHARE;

-- move_applied --
-- Redis has counted units that came.
UPDATE stock_moves SET applied_epoch = $2 WHERE id = $1 AND applied_epoch IS NULL AND state = 'counted';

-- move_refuse --
-- So many units were not free.
UPDATE stock_moves SET state = 'refused' WHERE id = $1 AND state = 'asked';

-- move_lock --
-- One carrier of a move at a time counts it.
SELECT sale, product, state, target FROM stock_moves WHERE id = $1 FOR UPDATE;

-- items_lock --
-- The items on both ends of a move, in one order for everyone who moves.
SELECT sale FROM sale_items WHERE product = $1 AND sale = ANY($2::text[]) ORDER BY sale FOR UPDATE;

-- move_count --
-- Redis has given the units: they leave the seller's stock. No row back: the record still has claims on units that Redis
-- knows to be free again, and this waits for it. The move is locked by the caller.
WITH item AS (
  UPDATE sale_items i SET stock = i.stock + m.quantity
    FROM stock_moves m
   WHERE m.id = $1 AND i.sale = m.sale AND i.product = m.product AND i.claimed + i.sold <= i.stock + m.quantity
  RETURNING -m.quantity AS units
)
UPDATE stock_moves SET state = 'counted', applied_epoch = $2 FROM item WHERE id = $1 RETURNING item.units;

-- item_status --
-- Whether a sale has the item, still has it, or has it judged; locked by whoever delivers to it.
SELECT status FROM sale_items WHERE sale = $1 AND product = $2 FOR UPDATE;

-- item_keep --
-- Units put aside for an item that is being judged.
UPDATE sale_items SET kept = kept + $3 WHERE sale = $1 AND product = $2;

-- items_astray --
-- Items whose units belong elsewhere: back with the product, once the sale is over for good or does not have the item any
-- more; put aside, while it is judged again. A product that was made with a sale has no other place.
SELECT i.sale, i.product, CASE WHEN i.status = 'pending' THEN i.sale ELSE '_shop' END AS target
  FROM sale_items i JOIN sales s ON s.id = i.sale
 WHERE i.sale <> '_shop' AND i.stock > i.claimed + i.sold AND s.shop_epoch > 0 AND ($1::text IS NULL OR i.sale = $1)
   AND (i.status <> 'approved' OR shop_now() >= s.closes_at)
   AND EXISTS (SELECT FROM sale_items o WHERE o.sale = '_shop' AND o.product = i.product)
   AND NOT EXISTS (SELECT FROM stock_moves m
                    WHERE m.sale = i.sale AND m.product = i.product AND m.state = 'asked' AND m.why = 'swept')
 LIMIT 500;

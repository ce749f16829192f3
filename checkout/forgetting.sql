-- addresses_forget --
-- Erase where the orders of an account went, except those that are still on their way.
UPDATE orders SET address = NULL
 WHERE buyer = $1 AND address IS NOT NULL
   AND state NOT IN ('reserved', 'confirming', 'confirmed', 'preparing', 'shipped', 'return_requested');

-- addresses_forget_late --
-- The same for every account that was deleted, now that they have arrived; $1 orders at most.
UPDATE orders SET address = NULL
 WHERE id IN (SELECT o.id FROM accounts a JOIN orders o ON o.buyer = a.id
               WHERE a.deleted_at IS NOT NULL AND o.address IS NOT NULL
                 AND o.state NOT IN ('reserved', 'confirming', 'confirmed', 'preparing', 'shipped', 'return_requested')
               LIMIT $1 FOR UPDATE OF o SKIP LOCKED)
RETURNING id;

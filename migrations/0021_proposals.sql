-- Sales that vendors propose and operators approve, item by item; and what an item has put aside until then.

ALTER TABLE sales
  -- Who proposed it; null: an operator, or the command line.
  ADD COLUMN vendor      text REFERENCES vendors (id),
  -- Null: nothing of it is approved, or it was edited since: it does not open.
  ADD COLUMN approved_at timestamptz DEFAULT now();
CREATE INDEX sales_of_vendor ON sales (vendor, no DESC) WHERE vendor IS NOT NULL;

ALTER TABLE sale_items
  ADD COLUMN status      text NOT NULL DEFAULT 'approved' CHECK (status IN ('pending', 'approved', 'refused', 'removed')),
  -- The vendor whose proposal it is; null: an operator's, bound by no rule of time.
  ADD COLUMN proposed_by text REFERENCES vendors (id),
  ADD COLUMN reason      text CHECK (length(reason) <= 500),
  -- Units that left the product for this item and are not in the sale's stock yet: nobody can buy them anywhere.
  ADD COLUMN kept        bigint NOT NULL DEFAULT 0 CHECK (kept >= 0);
CREATE INDEX sale_items_pending ON sale_items (sale) WHERE status = 'pending';
CREATE INDEX sale_items_proposed ON sale_items (proposed_by, sale) WHERE proposed_by IS NOT NULL;
CREATE INDEX sale_items_of_product ON sale_items (product);

-- Units are swept back from an item by one move at a time, however many workers sweep.
CREATE UNIQUE INDEX stock_moves_one_sweep ON stock_moves (sale, product) WHERE state = 'asked' AND why = 'swept';

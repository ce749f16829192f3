-- What products cost that a discount event makes cheaper at this moment.
CREATE VIEW reduced_now AS
SELECT n.product, p.amount - p.amount * n.percent / 100 AS amount FROM discounts_now n JOIN products p ON p.id = n.product;

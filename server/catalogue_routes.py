"""The catalogue's part of the table of paths: vendors, products, sales and their items. `routes.py` joins it."""

from __future__ import annotations

from onsale.auth import errors as auth_errors
from onsale.catalog import alarm_handlers as alarms
from onsale.catalog import alarm_schemas, list_schemas, product_schemas, proposal_schemas
from onsale.catalog import errors as catalog_errors
from onsale.catalog import handlers as catalog
from onsale.catalog import list_handlers as lists
from onsale.catalog import product_handlers as products
from onsale.catalog import proposal_handlers as proposals
from onsale.catalog import schemas as catalog_schemas
from onsale.catalog.salefile import SaleFile
from onsale.catalog.states import ProductState, SaleState
from onsale.server.route import PAGE, PAGE_BY_ID, Query, Route, page

PRICE = {"type": "integer", "minimum": 0, "maximum": products.AMOUNT_MAX}

SALES = (
    Route(
        "GET", "/v1/sales", catalog.list_sales, "list_sales", "Sales, newest first.",
        reply=catalog_schemas.SaleList,
        query=(*PAGE, Query("state", {"enum": list(SaleState)}, "Only sales in this state.")),
    ),
    Route(
        "POST", "/v1/sales", proposals.create_sale, "create_sale", "Make a sale; a vendor's is a proposal.", "seller",
        body=SaleFile, reply=proposal_schemas.ProposalReply, status=201,
        problems=(
            catalog_errors.SaleExists, catalog_errors.ProductUnknown, catalog_errors.VendorMissing,
            catalog_errors.SalesOverlap, catalog_errors.NotEnoughStock,
        ),
    ),
    Route(
        "GET", "/v1/sales/{sale}", catalog.show_sale, "show_sale", "One sale.",
        reply=catalog_schemas.SaleReply, problems=(catalog_errors.SaleUnknown,),
    ),
)  # fmt: skip

BEFORE = (
    catalog_errors.SaleUnknown, catalog_errors.SaleRunning, catalog_errors.SaleEnded, catalog_errors.SalesOverlap,
    catalog_errors.VendorMissing,
)  # fmt: skip
ITEM = (catalog_errors.SaleUnknown, catalog_errors.ProductUnknown, catalog_errors.ProposalDecided)

PROPOSALS = (
    Route(
        "PATCH", "/v1/sales/{sale}", proposals.edit_sale, "edit_sale",
        "Change a sale that has not begun; a vendor's is judged anew.", "seller",
        body=proposal_schemas.PlanPatch, reply=proposal_schemas.ProposalReply, problems=BEFORE,
    ),
    Route(
        "POST", "/v1/sales/{sale}/items", proposals.propose_item, "propose_item",
        "Propose a product for a sale that has not begun.", "seller",
        body=proposal_schemas.ProposalRequest, reply=proposal_schemas.ProposalReply, status=201,
        problems=(
            *BEFORE, catalog_errors.ProductUnknown, catalog_errors.ItemExists, catalog_errors.NotEnoughStock,
        ),
    ),
    Route(
        "POST", "/v1/sales/{sale}/items/{product}/approval", proposals.approve_item, "approve_item",
        "Let an item be sold when the sale's time comes.", "operator", reply=proposal_schemas.ProposalReply,
        problems=(*ITEM, catalog_errors.ApprovalTooLate),
    ),
    Route(
        "POST", "/v1/sales/{sale}/items/{product}/refusal", proposals.refuse_item, "refuse_item",
        "Refuse a proposal; its units are the product's again.", "operator",
        body=proposal_schemas.RefusalRequest, is_body_optional=True, reply=proposal_schemas.ProposalReply,
        problems=ITEM,
    ),
    Route(
        "DELETE", "/v1/sales/{sale}/items/{product}", proposals.remove_item, "remove_item",
        "Take an item out of a sale that has not begun.", "seller", status=204,
        problems=(*ITEM, catalog_errors.SaleRunning, catalog_errors.SaleEnded),
    ),
    Route(
        "POST", "/v1/sales/{sale}/items/{product}/stock", proposals.move_item_stock, "move_item_stock",
        "Move units of the product into a sale, or free ones back; once a key.", "seller",
        body=product_schemas.StockRequest, reply=product_schemas.MoveReply, headers=("Idempotency-Key",),
        also={202: "The move is on its way: repeat the request to see how it stands."},
        problems=(
            catalog_errors.SaleUnknown, catalog_errors.ProductUnknown, catalog_errors.SaleEnded,
            catalog_errors.NotEnoughStock,
        ),
    ),
    Route(
        "GET", "/v1/sales/{sale}/proposal", proposals.show_proposal, "show_proposal",
        "A sale as its vendor and operators see it, approved or not.", "seller",
        reply=proposal_schemas.ProposalReply, problems=(catalog_errors.SaleUnknown, catalog_errors.VendorMissing),
    ),
    Route(
        "GET", "/v1/proposals", proposals.list_proposals, "list_proposals",
        "Sales that vendors proposed, newest first; of a vendor its own.", "seller",
        reply=proposal_schemas.ProposalList, query=PAGE, problems=(catalog_errors.VendorMissing,),
    ),
)  # fmt: skip

VENDORS = (
    Route(
        "GET", "/v1/vendors", products.list_vendors, "list_vendors", "Who sells here, newest first.",
        reply=product_schemas.VendorList, query=PAGE_BY_ID,
    ),
    Route(
        "POST", "/v1/vendors", products.create_vendor, "create_vendor", "Become a vendor; one an account.", "seller",
        body=product_schemas.VendorRequest, reply=product_schemas.VendorReply, status=201,
        problems=(catalog_errors.VendorExists, catalog_errors.VendorUnknown),
    ),
    Route(
        "GET", "/v1/vendors/{vendor}", products.show_vendor, "show_vendor", "One vendor.",
        reply=product_schemas.VendorReply, problems=(catalog_errors.VendorUnknown,),
    ),
    Route(
        "PATCH", "/v1/vendors/{vendor}", products.edit_vendor, "edit_vendor", "Change your vendor.", "seller",
        body=product_schemas.VendorPatch, reply=product_schemas.VendorReply, problems=(catalog_errors.VendorUnknown,),
    ),
    Route(
        "DELETE", "/v1/vendors/{vendor}", products.delete_vendor, "delete_vendor",
        "End a vendor; its products are discontinued.", "seller", status=204, problems=(catalog_errors.VendorUnknown,),
    ),
)  # fmt: skip

PRODUCTS = (
    Route(
        "GET", "/v1/products", products.list_products, "list_products", "Products, newest first.",
        reply=product_schemas.ProductList,
        query=(
            *page("([4-9][0-9]{2}-|1000-)?[1-9][0-9]{0,8}"),
            Query(
                "q", {"type": "string", "minLength": 1, "maxLength": products.SEARCH_MAX},
                "What their titles are like, typos forgiven; then the best come first.",
            ),
            Query("state", {"enum": list(ProductState)}, "Only products in this state; discontinued ones only so."),
            Query("vendor", {"type": "string"}, "Only products of this vendor."),
            Query("price_min", PRICE, "Costing as much or more at this moment, discounts included, in minor units."),
            Query("price_max", PRICE, "Costing as much or less."),
        ),
    ),
    Route(
        "POST", "/v1/products", products.create_product, "create_product", "Offer a product.", "seller",
        body=product_schemas.ProductRequest, reply=product_schemas.ProductReply, status=201,
        problems=(catalog_errors.ProductExists, catalog_errors.VendorMissing, catalog_errors.VendorUnknown),
    ),
    Route(
        "GET", "/v1/products/{product}", products.show_product, "show_product", "One product.",
        reply=product_schemas.ProductReply, problems=(catalog_errors.ProductUnknown,),
    ),
    Route(
        "GET", "/v1/products/{product}/recommendations", products.list_recommendations, "list_recommendations",
        "Up to ten products to look at next: bought together with this one, then best sellers, then the newest.",
        reply=product_schemas.RecommendationList, problems=(catalog_errors.ProductUnknown,),
    ),
    Route(
        "PATCH", "/v1/products/{product}", products.edit_product, "edit_product", "Change your product.", "seller",
        body=product_schemas.ProductPatch, reply=product_schemas.ProductReply,
        problems=(catalog_errors.ProductUnknown,),
    ),
    Route(
        "DELETE", "/v1/products/{product}", products.delete_product, "delete_product", "Sell a product no more.",
        "seller", status=204, problems=(catalog_errors.ProductUnknown, catalog_errors.ProductInSale),
    ),
    Route(
        "POST", "/v1/products/{product}/stock", products.change_stock, "change_stock",
        "Add units of a product, or take free ones out; once a key.", "seller",
        body=product_schemas.StockRequest, reply=product_schemas.MoveReply, headers=("Idempotency-Key",),
        also={202: "The move is on its way: repeat the request to see how it stands."},
        problems=(catalog_errors.ProductUnknown, catalog_errors.NotEnoughStock),
    ),
)  # fmt: skip

DISCOUNTS = (
    Route(
        "GET", "/v1/discounts", products.list_discounts, "list_discounts", "Discount events, newest first.",
        reply=product_schemas.DiscountList, query=PAGE_BY_ID,
    ),
    Route(
        "POST", "/v1/discounts", products.create_discount, "create_discount", "Take so much off some products.",
        "seller", body=product_schemas.DiscountRequest, reply=product_schemas.DiscountReply, status=201,
        problems=(catalog_errors.VendorMissing, catalog_errors.ProductUnknown),
    ),
    Route(
        "GET", "/v1/discounts/{discount}", products.show_discount, "show_discount", "One discount event.",
        reply=product_schemas.DiscountReply, problems=(catalog_errors.DiscountUnknown,),
    ),
    Route(
        "PATCH", "/v1/discounts/{discount}", products.edit_discount, "edit_discount", "Change a discount event.",
        "seller", body=product_schemas.DiscountPatch, reply=product_schemas.DiscountReply,
        problems=(catalog_errors.DiscountUnknown, catalog_errors.ProductUnknown),
    ),
    Route(
        "DELETE", "/v1/discounts/{discount}", products.delete_discount, "delete_discount", "End a discount event.",
        "seller", status=204, problems=(catalog_errors.DiscountUnknown,),
    ),
)  # fmt: skip

CART = (catalog_errors.ProductUnknown, catalog_errors.ProductUnavailable, catalog_errors.CartFull)

LISTS = (
    Route(
        "GET", "/v1/wishes", lists.list_wishes, "list_wishes", "What you wish for, newest first.", "buyer",
        reply=list_schemas.WishList, query=PAGE,
    ),
    Route(
        "PUT", "/v1/wishes/{product}", lists.add_wish, "add_wish", "Wish for a product.", "buyer", status=204,
        problems=(catalog_errors.ProductUnknown, catalog_errors.WishExists),
    ),
    Route(
        "DELETE", "/v1/wishes/{product}", lists.remove_wish, "remove_wish", "Wish for it no more.", "buyer", status=204,
    ),
    Route(
        "GET", "/v1/cart", lists.show_cart, "show_cart", "Your cart at the prices and stock of this moment.", "buyer",
        reply=list_schemas.CartReply,
    ),
    Route("DELETE", "/v1/cart", lists.empty_cart, "empty_cart", "Empty your cart.", "buyer", status=204),
    Route(
        "PUT", "/v1/cart/items/{product}", lists.put_in_cart, "put_in_cart", "So many units of a product.", "buyer",
        body=list_schemas.QuantityRequest, reply=list_schemas.CartReply, problems=CART,
    ),
    Route(
        "DELETE", "/v1/cart/items/{product}", lists.remove_from_cart, "remove_from_cart",
        "Take a product out of your cart.", "buyer", status=204,
    ),
)  # fmt: skip

ALARMS = (
    Route(
        "GET", "/v1/alarms", alarms.list_alarms, "list_alarms",
        "Sales that you are told of before they start, newest first; operators look up another's by address.", "buyer",
        reply=alarm_schemas.AlarmList,
        query=(*PAGE, Query("email", {"type": "string"}, "Whose; for operators alone.")),
        problems=(auth_errors.Forbidden,),
    ),
    Route(
        "PUT", "/v1/sales/{sale}/alarm", alarms.put_alarm, "put_alarm",
        "Have a letter sent an hour before a sale starts; until ten minutes before that.", "buyer",
        reply=alarm_schemas.AlarmReply, status=201, also={200: "You had asked for it before."},
        problems=(catalog_errors.SaleUnknown, catalog_errors.AlarmTooLate),
    ),
    Route(
        "DELETE", "/v1/sales/{sale}/alarm", alarms.remove_alarm, "remove_alarm", "Have no letter sent.", "buyer",
        status=204,
    ),
)  # fmt: skip

CATALOGUE: tuple[Route, ...] = (*SALES, *PROPOSALS, *VENDORS, *PRODUCTS, *DISCOUNTS, *LISTS, *ALARMS)

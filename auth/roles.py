"""What an account may be. A client never chooses its role; `onsale role` and the demo do."""

from enum import StrEnum


class Role(StrEnum):
    CUSTOMER = "customer"
    VENDOR = "vendor"
    MANAGER = "manager"  # operates sales
    MASTER = "master"  # operates sales and accounts


# Who operates sales, and who sells: vendors their own, operators for the house.
OPERATORS = (Role.MANAGER, Role.MASTER)
SELLERS = (Role.VENDOR, *OPERATORS)

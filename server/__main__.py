"""`python -m onsale.server` is the same as the command `onsale`."""

from onsale.server.cli import main

main()

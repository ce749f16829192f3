"""What people see in a browser. `rendering.py` is the one renderer, `access.py` says how pages and forms answer, and
each other file is one page with its forms. `docs/pages.md` says how a page is added."""

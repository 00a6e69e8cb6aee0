# `make` lists the commands. Every one of them makes the environment first; that is quick when nothing has changed.
.DEFAULT_GOAL := help
SHELL := /bin/bash
# The first that runs and is new enough: a name on PATH may be a shim without a Python behind it.
PYTHON ?= $(or $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done),python3)
BIN := .venv/bin
# Our own code is compiled once, too, whatever the caller's environment says: a stack is many processes.
export PYTHONDONTWRITEBYTECODE :=
LONG_FILES := tests/survival tests/e2e tests/integration tests/workflows
OTHERS = $(filter-out $(LONG_FILES),$(patsubst %/,%,$(wildcard tests/test_*.py tests/*/)))
QUICK_TESTS := tests/unit tests/property tests/workflows tests/contract

.PHONY: help
help:  ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup:  ## Make .venv from the lock and fetch the Temporal command line
	@$(PYTHON) setup/environment.py

.PHONY: demo
demo: setup  ## Watch an upgrade under load, from an empty folder
	@$(BIN)/uplift demo

.PHONY: test
test: setup  ## All tests but the long ones, three files at a time, folders with long files first
	@$(BIN)/python -m pytest -q -m "not soak and not platform" -n 3 --dist loadfile --no-loadscope-reorder \
		$(LONG_FILES) $(OTHERS)

.PHONY: check
check: setup  ## Format, lint, types, layers and the quick tests
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -q -m "not soak and not platform" $(QUICK_TESTS)

.PHONY: fmt
fmt: setup  ## Format, and mend what the linter can
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

.PHONY: up
up: setup  ## Run everything on this machine
	@$(BIN)/uplift up

.PHONY: status
status: setup  ## Show what `make up` runs
	@$(BIN)/uplift status || test $$? -eq 3 # that nothing runs is an answer

.PHONY: down
down: setup  ## Stop what `make up` runs
	@$(BIN)/uplift down

.PHONY: bench
bench: setup  ## Measure; prints and keeps the figures
	@$(BIN)/python -m bench

.PHONY: soak
soak: setup  ## The long tests, four at a time; REPORT=FILE keeps the table of what was killed, and when
	@$(BIN)/python -m pytest -q -m "soak or matrix" -n 4 --dist loadgroup --instafail -p tests.survival.report \
		$(if $(REPORT),--survival-report=$(REPORT))

.PHONY: platforms
platforms: setup  ## Whole releases of FOLIO, upgraded one after the other: about an hour
	@$(BIN)/python -m pytest -q -rP -m platform --instafail

.PHONY: histories
histories: setup  ## Record runs of every outcome for the replay tests, into a new folder [NAME=today]
	@$(BIN)/python -m tests.workflows.record $(NAME)

.PHONY: docs
docs: setup  ## Write the reference pages that come from the code
	@$(BIN)/python docs/generate.py

.PHONY: lock
lock: setup  ## Resolve the dependencies anew
	@setup/lock

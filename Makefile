# Needs make, bash and Python >= 3.11; everything else goes into .venv by itself.
# Another Python:  make test PYTHON=python3.12   (remove .venv first if it was made by an old one)
SHELL := bash
PYTHON ?= python3 python3.14 python3.13 python3.12 python3.11
ARGS ?=
DIR ?=

BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test prove lint bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(READY) ## Analyse a tree of files, kill a process half-way, lose nothing (DIR=folder)
	@$(BIN)/python examples/demo.py $(if $(DIR),"$(DIR)")

test: $(READY) ## Run the tests, ends with a table by suite (ARGS="tests/unit -k lease")
	@$(BIN)/python -m pytest $(ARGS)

prove: $(READY) ## Run the tests at their full counts, goes on where it stopped (hours)
	@$(BIN)/python -m pytest tests --prove $(ARGS)

lint: $(READY) ## Check style, types and the direction of imports
	@echo 'lint: ruff'
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@echo 'lint: mypy --strict'
	@$(BIN)/mypy $(wildcard src tests examples benchmarks)
	@echo 'lint: direction of imports'
	@$(BIN)/lint-imports --no-logo

bench: $(READY) ## Measure against Celery and others on this machine (ARGS=--help)
	@$(BIN)/python -m benchmarks $(ARGS)

clean: ## Remove .venv, caches and builds (never .umbel: it may hold queued work)
	rm -rf .venv build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find src tests examples benchmarks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

# An interrupted set-up leaves no stamp and is taken up again. A .venv whose Python has gone with
# an upgrade of the system is made anew, stamp or not.
ifneq ($(shell $(BIN)/python -c 'print("runs")' 2>/dev/null),runs)
.PHONY: $(READY)
endif

$(READY): pyproject.toml
	@set -euo pipefail; \
	check='import sys; sys.exit(sys.version_info < (3, 11))'; \
	if ! $(BIN)/python -c "$$check" 2>/dev/null; then \
	  found=; \
	  for python in $(PYTHON); do \
	    if "$$python" -c "$$check" 2>/dev/null; then found="$$python"; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "Umbel needs Python 3.11 or newer; looked for: $(PYTHON)." >&2; \
	    for python in $(PYTHON); do \
	      echo "  $$python: $$("$$python" --version 2>&1 | head -n 1 || true)" >&2; \
	    done; \
	    echo "Nothing was set up. Name one that is new enough: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; \
	    exit 1; \
	  fi; \
	  echo "setup: .venv with $$("$$found" --version) ($$(command -v "$$found"))"; \
	  "$$found" -m venv --clear .venv || { \
	    echo "That Python cannot make a virtual environment (on Debian and Ubuntu: apt install python3-venv)." >&2; \
	    exit 1; \
	  }; \
	fi; \
	echo 'setup: umbel and what its tests need (half a minute the first time)'; \
	$(BIN)/python -m pip install --disable-pip-version-check --no-input -e '.[dev]' \
	  | sed -n -e 's/^Collecting \([^ ]*\).*/setup:   \1/p' -e 's/^Installing collected packages.*/setup:   installing/p'; \
	touch $@

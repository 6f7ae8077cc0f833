# Two commands matter: `make demo` and `make test`. Each sets up .venv first.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv does not read pip's configuration: hand over its find-links, where a machine may keep a CPU build of torch.
FIND_LINKS := $(shell $(PYTHON) -m pip config list 2>/dev/null | sed -n "s/.*find-links='\(.*\)'/\1/p" | head -n 1)

.PHONY: setup demo test check bench format lock clean
.DEFAULT_GOAL := setup

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@if ls $(FIND_LINKS)/torch-*cpu* >/dev/null 2>&1; then \
	    export UV_FIND_LINKS="$(FIND_LINKS)"; backend=""; \
	else \
	    backend="--torch-backend=cpu"; \
	fi; \
	set -x; VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet $$backend -r requirements.lock && \
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $@

demo: setup
	$(BIN)/python -m deploy.demo

test: setup
	$(BIN)/python -m pytest

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python -m benchmarks

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The lock names torch without its local version (+cpu), so that every machine finds its own build.
lock:
	UV_FIND_LINKS="$(FIND_LINKS)" $(BIN)/uv pip compile pyproject.toml --all-extras --group dev --python-version 3.11 \
	    --python-platform linux --upgrade --no-header --no-emit-find-links --no-emit-index-url --no-annotate -o requirements.lock
	sed -i 's/^torch==\([0-9.]*\)+cpu/torch==\1/' requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build *.egg-info

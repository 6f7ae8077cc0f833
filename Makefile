# Two commands matter: `make demo` and `make test`. Each sets up .venv first.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv does not read pip's configuration, where a machine may name its certificates, its package index and a directory
# with a CPU build of torch (find-links). Variables that are set win.
define UV_SETTINGS
pip_option() { $(BIN)/python -m pip config list 2>/dev/null | sed -n "s/.*\.$$1='\(.*\)'/\1/p" | head -n 1; }; \
hand_over() { if [ -z "$${!1:-}" ] && [ -n "$$2" ]; then export "$$1=$$2"; fi; }; \
hand_over UV_FIND_LINKS "$$(pip_option find-links)"; \
hand_over UV_DEFAULT_INDEX "$$(pip_option index-url)"; \
hand_over SSL_CERT_FILE "$$(pip_option cert)"
endef

# A stack and its tests start dozens of processes: what they import is compiled once, whatever the caller's habit.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: setup demo demo-learning test test-all check docs bench format lock clean
.DEFAULT_GOAL := setup

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	@$(UV_SETTINGS); \
	backend="--torch-backend=cpu"; if ls "$${UV_FIND_LINKS:-none}"/torch-*cpu* >/dev/null 2>&1; then backend=""; fi; \
	set -x; export VIRTUAL_ENV=$(CURDIR)/$(VENV); $(BIN)/uv pip install --quiet --no-deps $$backend -r requirements.lock && \
	$(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $@

demo: setup
	$(BIN)/python -m demo.batch

# DATA=TABLE replays recorded answers (prompt, gold, strong_response, weak_response) instead of the simulation.
demo-learning: setup
	$(BIN)/python -m demo.learning $(if $(DATA),--data $(DATA))

# The tests of a file stay together, for they share stacks and models; the files go in their order, whole stacks first,
# so that no core waits for one of them at the end. tests/conftest.py says how many processes run them.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

test: setup
	$(PYTEST)

# The same with every example of the property tests, and chaos for longer.
test-all: setup
	$(PYTEST) --all

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Lists the benchmarks, and runs the one of large files, which needs no data.
# The pages of docs/ that are written by a program.
docs: setup
	$(BIN)/python -m cli.reference > docs/reference/cli.md

bench: setup
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.dispatch.scale

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The lock names torch without its local version (+cpu), so that every machine finds its own build.
lock:
	@$(UV_SETTINGS); set -x; \
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --python-version 3.11 \
	    --python-platform linux --upgrade --no-header --no-emit-find-links --no-emit-index-url --no-annotate -o requirements.lock
	sed -i 's/^torch==\([0-9.]*\)+cpu/torch==\1/' requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build *.egg-info

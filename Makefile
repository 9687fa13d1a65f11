# Two commands are all a newcomer needs: `make demo` and `make test`. Each sets up what it needs in .venv.
# The first that really runs: some systems have stubs for versions that are not installed.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	$$p -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
# Threads of numeric libraries; more than the cores at hand only makes them wait for each other.
export OMP_NUM_THREADS ?= 2

.PHONY: demo test lint types unit long chromium clean

demo: $(VENV)/.installed
	$(BIN)/vidsift demo --dir demo

test: lint types unit

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks

types: $(VENV)/.dev
	$(BIN)/mypy

unit: $(VENV)/.dev chromium
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m "not long"

# What takes minutes: Ray clusters, shards that are killed, two nodes that train, the guides of docs/ as they stand.
long: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -m long

# The page is tested in a real browser.
chromium:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
		|| { test "$$(id -u)" = 0 && { apt-get install -y -q chromium || { apt-get update -q && apt-get install -y -q chromium; }; } >&2; } \
		|| { echo "the tests of the page need Chromium (Debian: apt-get install chromium)" >&2; exit 1; }

clean:
	rm -rf $(VENV) demo build dist

$(BIN)/python:
	@test -n "$(PYTHON)" || \
		{ echo "vidsift needs Python 3.11 or newer with venv. Try: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed

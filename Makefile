# Everything runs in .venv, which the first target that needs it creates. Only pip uses the network.
# python3 where stssl supports it, else the first of the others that is there.
SUPPORTED := 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))'
NAMES := python3 python3.14 python3.13 python3.12 python3.11
PYTHON ?= $(or $(firstword $(foreach name,$(NAMES),$(shell $(name) -c $(SUPPORTED) 2>/dev/null && echo $(name)))),python3)
PY := .venv/bin/python
STAMP := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test soak lint clean

help: ## Show the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-7s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

demo: $(STAMP) ## Prepare the 103 patches in data/ and search a small space on them
	$(PY) launch.py prepare eurosat data/eurosat_ms_103 --out runs/data/eurosat-103
	$(PY) launch.py search search_spaces/demo.yaml

test: $(STAMP) ## Run the tests, without the long ones
	@$(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not soak"

soak: $(STAMP) ## Run the long tests
	@$(PY) -m pytest -q -m soak

lint: $(STAMP) ## Check style, types and import layers
	@$(PY) -m ruff check --quiet .
	@$(PY) -m ruff format --check --quiet .
	@$(PY) -m mypy --no-error-summary
	@.venv/bin/lint-imports --no-logo

clean: ## Remove caches and build leftovers; .venv and runs/ stay
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -path ./.venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# `venv` runs again where .venv has no working pip, as an interrupted or refused creation leaves it.
$(STAMP): pyproject.toml constraints.txt
	@test -x $(PY) || $(PYTHON) -c $(SUPPORTED) 2>/dev/null || { \
		echo "stssl needs Python 3.11 to 3.14, which '$(PYTHON)' is not; name one with 'make PYTHON=python3.11'." >&2; exit 1; }
	@echo "Installing stssl and its dependencies into .venv (about 6.5 GB, a few minutes) ..."
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt -e '.[dev]'
	@touch $@

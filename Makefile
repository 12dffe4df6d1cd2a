# The two commands of the README, and what keeps the house in order. Each installs what it needs into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= contralens-demo

# The front end's packages, where npm is there to install them; its tests are skipped otherwise.
FRONT := $(if $(shell command -v npm),explorer-ui/node_modules/.package-lock.json)

.PHONY: demo test docs bench world constraints sbom clean

demo: $(VENV)/.core
	$(BIN)/contralens demo --out $(OUT)

# SLOW=1 runs the tests marked slow, too, as CI does.
test: $(VENV)/.test $(FRONT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist worksteal --durations=15 $(if $(SLOW),,-m 'not slow')

docs: $(VENV)/.docs
	$(BIN)/python scripts/make_cli_docs.py
	$(BIN)/python scripts/make_docs.py
	@echo "open site/index.html"

# All benchmarks at small sizes; `$(BIN)/python benchmarks/all.py --write` is the real thing.
bench: $(VENV)/.test
	$(BIN)/python benchmarks/all.py --quick

constraints: $(VENV)/.test
	$(BIN)/python scripts/make_constraints.py

# What is in .venv, as CycloneDX: after `make demo` what a user installs. The tool lives apart, so as not to list itself.
sbom: $(VENV)/.core
	$(PYTHON) -m venv build/sbom
	build/sbom/bin/python -m pip install -q cyclonedx-bom
	build/sbom/bin/python scripts/make_sbom.py $(BIN)/python

world: $(VENV)/.core
	$(BIN)/python scripts/make_world.py

clean:
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'contralens needs Python 3.11 or newer; run make PYTHON=python3.12 ...')"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.core: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install -q -e .
	touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install -q -e '.[test]'
	touch $@ $(VENV)/.core $(VENV)/.docs

explorer-ui/node_modules/.package-lock.json: explorer-ui/package-lock.json
	(cd explorer-ui && npm ci --no-audit --no-fund --loglevel=error) && touch $@ \
		|| echo "npm could not install the front end's packages: its tests are skipped"

$(VENV)/.docs: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install -q -e '.[docs]'
	touch $@ $(VENV)/.core

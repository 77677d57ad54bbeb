# Commands that do all their own set-up: `make run`, `make test`, `make docs`, `make bench`.

PYTHON ?= python3
RUN ?= runs/$(shell date +%Y%m%d-%H%M%S)
BIN = .venv/bin
READY = .venv/.ready

.PHONY: run test docs bench clean

run: $(READY)  ## Train on the embedded digits, say what was achieved and learnt, and draw it.
	$(BIN)/python -m licm train --out $(RUN)
	$(BIN)/python -m licm evaluate $(RUN)
	$(BIN)/python -m licm describe $(RUN)
	$(BIN)/python -m licm report $(RUN)

test: $(READY)  ## Lint, types, tests.
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --dist loadfile

docs: $(READY)  ## Build the documentation into docs/_build/html, without a network.
	$(BIN)/python -m sphinx build --fail-on-warning --quiet docs docs/_build/html
	@echo "open docs/_build/html/index.html"

bench: $(READY)  ## Measure speed here, into speed.json; close other programs first.
	$(BIN)/python -m benchmarks speed --json speed.json

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("licm needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	touch $(READY)

clean:  ## Remove the environment and caches; runs stay.
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis docs/_build docs/api

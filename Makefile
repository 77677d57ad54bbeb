# Two commands, each doing all its own set-up: `make run` and `make test`.

PYTHON ?= python3
RUN ?= runs/$(shell date +%Y%m%d-%H%M%S)
BIN = .venv/bin
READY = .venv/.ready

.PHONY: run test clean

run: $(READY)  ## Train on the embedded digits, say what was achieved, and draw it.
	$(BIN)/python -m licm train --out $(RUN)
	$(BIN)/python -m licm evaluate $(RUN)
	$(BIN)/python -m licm report $(RUN)

test: $(READY)  ## Lint, types, tests.
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("licm needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $(READY)

clean:  ## Remove the environment and caches; runs stay.
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis

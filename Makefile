# `make demo` and `make test` each do all their set-up on a machine with Python 3.11 or later.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test check bench lint docs coverage mutate fuzz lowest snapshots clean

install: $(VENV)/.installed

# torch comes from the lock file, and first: an open range would pull gigabytes of GPU libraries.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hm4sr needs Python 3.11 or later, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install
	$(BIN)/hm4sr demo --out demo

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

check: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m ''

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: install
	$(BIN)/python -m sphinx -b html -q -W --keep-going docs docs/_build/html
	@echo docs/_build/html/index.html

# The tests of `make test`, commands that they start counted: 90 % of lines, 80 % of branches.
coverage: install
	rm -f .coverage .coverage.*
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --cov --cov-report=
	$(BIN)/python -m tools.coverage --lines 90 --branches 80

# Small changes to metrics, splits and losses: how many of them a test notices. About fifteen minutes.
mutate: install
	rm -rf mutants
	OMP_NUM_THREADS=1 $(BIN)/python -m mutmut run --max-children 1
	$(BIN)/python -m mutmut results

# Parsers, loaders and the service given what a coverage-guided fuzzer makes up; SECONDS for each of the targets.
SECONDS ?= 60
fuzz: install
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	$(BIN)/python -m fuzz --seconds $(SECONDS)

# The quick tests with the lowest versions that pyproject.toml allows; torch stays as pinned.
lowest: install
	$(BIN)/python -m tools.lowest .lowest

snapshots: install
	$(BIN)/python -m tools.api
	$(BIN)/python -m tools.licences

bench: install
	$(BIN)/python -m benchmarks
	$(BIN)/python -m pytest benchmarks -m '' --benchmark-columns=min,median,rounds

clean:
	rm -rf $(VENV) demo build dist docs/_build docs/reference mutants .lowest src/*.egg-info

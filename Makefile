# `make demo` and `make test` each do all their set-up on a machine with Python 3.11 or later.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install demo test check bench lint clean

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

bench: install
	$(BIN)/python -m benchmarks
	$(BIN)/python -m pytest benchmarks -m '' --benchmark-columns=min,median,rounds

clean:
	rm -rf $(VENV) demo build dist src/*.egg-info

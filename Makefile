# make demo: train, guide and evaluate on real digits.  make test: lint, types, tests.
# make bench: measure this machine, beside other packages, into benchmarks/RESULTS.md.
# make cifar10: the recipe of docs/cifar10.md, in minutes on a GPU.
# Each does its own set-up, in .venv, on a machine that has only Python 3.11+, make and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo cifar10 test bench clean

demo: $(VENV)/.installed
	$(BIN)/python scripts/demo.py

cifar10: $(VENV)/.installed
	test -d cifar10/test || $(BIN)/python examples/cifar10_folders.py cifar10
	$(BIN)/python benchmarks/cifar10.py --data cifar10

test: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/python -m pytest

bench: $(VENV)/.installed-bench
	$(BIN)/python benchmarks/results.py

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 ..")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	touch $@

clean:
	rm -rf $(VENV) runs

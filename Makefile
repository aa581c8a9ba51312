# `make demo` and `make test` set up whatever they need by themselves (.ci/setup); bare `make` lists the targets.
# PYTHON=/path/to/python chooses the Python that .venv is made with.

SHELL := /bin/bash
python := .venv/bin/python

.PHONY: help demo lab test check bench test-all test-oldest clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' Makefile

demo:  ## serve real notebooks, change one, break it, mend it: the main job in a minute
	@bash .ci/setup demo
	$(python) notebooks/demo.py

lab:  ## open JupyterLab on the tutorials
	@bash .ci/setup lab
	cd notebooks && ../$(python) -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root) 01-first-call.ipynb

test:  ## everything CI runs: check, then all tests
	@bash .ci/setup test
	@$(MAKE) --no-print-directory check
	$(python) -m pytest tests

check:  ## lint, format, types and the direction of imports
	@bash .ci/setup check
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy
	$(python) -m pytest tests/test_imports.py

bench:  ## measure; the only source of figures
	@bash .ci/setup check
	$(python) -m bench

test-all:  ## the tests on every Python of 3.11 or newer that this machine has
	@bash .ci/test-all

test-oldest:  ## the extension's tests with the oldest IPython and ipykernel that are admitted
	@bash .ci/test-oldest

clean:  ## remove the venvs, what was built and every cache; stores stay
	rm -rf .venv .venv-* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Everything runs in .venv, which any target makes and fills first. A bare machine needs Python
# 3.11 or newer with pip, and make; a second call finds the stamp and goes straight to work.

PYTHON ?= $(shell python3.11 -c 'print("python3.11")' 2>/dev/null || echo python3)
BIN := .venv/bin
INSTALLED := .venv/.installed
CORPUS := .venv-corpus
# Test processes: two cores are what a small CI machine has.
WORKERS ?= 2

.PHONY: help demo test lint unit slow bench corpus clean
.DEFAULT_GOAL := help

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED) ## reproduce He's experiment on a photograph: table, findings, figure, page
	@$(BIN)/varprobe demo

test: lint unit ## run everything that a change must pass

lint: $(INSTALLED) ## format, style, types and import direction
	@echo '== format'
	@$(BIN)/ruff format --check .
	@echo '== style'
	@$(BIN)/ruff check .
	@echo '== types'
	@$(BIN)/mypy
	@echo '== imports'
	@$(BIN)/lint-imports --no-logo

unit: $(INSTALLED) ## tests, doctests, README, examples and the wheel, with coverage
	@echo '== tests, doctests, README, examples, wheel'
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest --quiet --numprocesses $(WORKERS)
	@echo '== coverage'
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage report

slow: $(INSTALLED) ## the long proofs
	@$(BIN)/python -m pytest -m slow

bench: $(INSTALLED) ## measure the cost of observing
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script; done

# LIBRARIES="timm diffusers" examines only these.
corpus: $(CORPUS)/.installed ## probe the models of ten libraries, in an environment of their own
	@OMP_NUM_THREADS=1 $(CORPUS)/bin/python -m tests.corpus $(LIBRARIES)

clean: ## remove everything that can be made again
	rm -rf .venv .venv-corpus .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis dist build
	rm -f .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The pip that comes with Python 3.11 knows no dependency groups, hence the first install.
$(INSTALLED): pyproject.toml constraints.txt
	@echo '== install (takes a few minutes the first time)'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -qq --constraint constraints.txt --upgrade pip
	@$(BIN)/python -m pip install -qq --constraint constraints.txt --group dev --editable .
	@touch $@

$(CORPUS)/.installed: pyproject.toml constraints.txt constraints-corpus.txt
	@echo '== install the libraries of the corpus (takes a few minutes the first time)'
	@$(PYTHON) -m venv $(CORPUS)
	@$(CORPUS)/bin/python -m pip install -qq --constraint constraints.txt --upgrade pip
	@$(CORPUS)/bin/python -m pip install -qq --constraint constraints.txt \
		--constraint constraints-corpus.txt --group corpus --editable .
	@touch $@

# All commands build .venv when it is missing.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint mutation

demo: .venv/ready
	$(BIN)/continual-ep run

test: .venv/ready lint
	$(BIN)/python -m pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Which of the known defects the tests catch; for some only, MUTATION="resume run" or --list.
mutation: .venv/ready
	$(BIN)/python scripts/mutation_test.py $(MUTATION)

# A stamp, not the folder: an installation that was interrupted is taken up again.
.venv/ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --quiet -e '.[dev]'
	touch $@

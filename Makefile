# Every target makes .venv where it is missing, so a fresh clone needs only Python 3.11 and make.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=
TESTS ?=
# Most tests wait, for servers and processes, most of their time.
WORKERS ?= $(shell echo $$((2 * $$(getconf _NPROCESSORS_ONLN))))
OLDEST_POSTGRES ?= /usr/lib/postgresql/15/bin

.PHONY: demo test test-oldest lint format written docs bench performance install clean audit

demo: $(VENV)/.installed
	@$(BIN)/pgsync demo $(ARGS)

# What fails beside many others is run once more alone: that parts a fault from a machine too busy
# to keep a test's deadline. Both outcomes are printed, and what fails alone fails the run.
AGAIN := --last-failed --last-failed-no-failures none

test: $(VENV)/.installed
	$(BIN)/pytest -n $(WORKERS) --dist worksteal $(TESTS) || $(BIN)/pytest $(AGAIN) $(TESTS)
	@$(MAKE) --no-print-directory test-oldest

# The kernel once more on the oldest supported server, where Debian's is installed.
test-oldest: $(VENV)/.installed
	@if [ -x $(OLDEST_POSTGRES)/postgres ] && [ -z "$(PGSYNC_TEST_DSN)$(PGSYNC_TEST_POSTGRES)" ]; then \
		export PGSYNC_PG_BINDIR=$(OLDEST_POSTGRES); \
		$(BIN)/pytest -n $(WORKERS) --dist worksteal -m core $(TESTS) || $(BIN)/pytest -m core $(AGAIN) $(TESTS); \
	else \
		echo "PostgreSQL 15 is not installed at $(OLDEST_POSTGRES): its pass was not run."; \
	fi

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# What is written by a program and kept in the repository; tests hold it fresh.
written: $(VENV)/.installed
	$(BIN)/python -m pgsync.database.install_script > sql/install.sql
	$(BIN)/python -m pgsync.database.reference > docs/sql.md

docs: $(VENV)/.installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks $(ARGS)

# Measures all for a quarter of an hour, on a quiet machine, and publishes docs/performance.md.
performance: $(VENV)/.installed-bench
	mkdir -p build
	$(BIN)/python -m benchmarks --full --rounds 5 --json > build/performance.json
	$(BIN)/python -m benchmarks.publish build/performance.json

# Known holes in what is installed. Asks the index's service: not part of the tests.
audit: $(VENV)/.installed
	@$(BIN)/python -m pip install --quiet pip-audit
	$(BIN)/pip-audit --skip-editable

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

$(VENV)/.installed-bench: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

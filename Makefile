# Every target does its own set-up; a second run does only what has changed since.
# `make` alone lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?=
PORT ?= 8080
ARGS ?=
# Processes that share the Python tests; more than cores, since most tests wait for a server.
WORKERS ?= 4

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check --no-input
NPM := npm --no-fund --no-audit --no-update-notifier
CLIENTS := clients/node_modules/.stamp
STOCK_CLIENT := tests/clients_js/node_modules/.stamp

# Programs that tests start; scripts/tools.sh installs them where that is possible.
CLIENT_TOOLS := chromium
SERVER_TOOLS := redis-server postgresql pgbouncer haproxy faketime

##@ Use
.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: run
run: $(VENV)/.run.stamp ## Start the server with its demo page on PORT (8080); needs only Python
	@$(BIN)/roomful serve --dev --port $(PORT) $(ARGS)

##@ Develop
.PHONY: test
test: test-python test-clients ## Run all tests (in a part of them: test-python, test-clients)

.PHONY: test-python
test-python: $(VENV)/.dev.stamp $(STOCK_CLIENT) server-tools
	@echo "== pytest"
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: test-clients
test-clients: $(VENV)/.run.stamp $(CLIENTS) client-tools
	@set -e; for script in test test:integration test:browser; do \
		echo "== npm run $$script"; $(NPM) --prefix clients run --silent $$script; \
	done

.PHONY: e2e
e2e: $(VENV)/.dev.stamp ## Test the chart in a kind cluster: docker, kind, kubectl, helm (ARGS="-m smoke": the short part)
	@$(BIN)/python -m pytest e2e $(ARGS)

.PHONY: check
check: check-python check-clients ## Lint, check types, imports, the lock, and that the built page is fresh

.PHONY: check-python
check-python: $(VENV)/.dev.stamp
	@echo "== ruff"
	@$(BIN)/ruff check --quiet && $(BIN)/ruff format --check --quiet
	@echo "== mypy"
	@$(BIN)/mypy
	@echo "== import-linter"
	@$(BIN)/lint-imports --no-cache --no-logo
	@echo "== lock and tree"
	@$(BIN)/python scripts/lock.py --check
	@$(BIN)/python scripts/check_tree.py
	@$(BIN)/python scripts/settings_page.py --check
	@$(BIN)/python scripts/crd.py --check
	@$(BIN)/python scripts/chart.py --check

.PHONY: check-clients
check-clients: $(CLIENTS)
	@set -e; for script in lint typecheck check-build; do \
		echo "== npm run $$script"; $(NPM) --prefix clients run --silent $$script; \
	done

.PHONY: format
format: $(VENV)/.dev.stamp ## Format the Python code, and mend what ruff can mend
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

.PHONY: verify
verify: $(VENV)/.run.stamp server-tools ## Break a cluster on this machine under load, and count what is lost (ARGS="--duration 300")
	@$(BIN)/roomful verify --local $(ARGS)

.PHONY: bench
bench: $(VENV)/.dev.stamp server-tools ## Measure this machine (ARGS="..." go to bench/run.py)
	@$(BIN)/python bench/run.py $(ARGS)

.PHONY: lock
lock: $(VENV)/.made ## Write requirements/ after a change to pyproject.toml (ARGS=--upgrade: newer versions)
	@$(PIP) install 'uv>=0.9,<1' 'packaging>=25'
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python scripts/lock.py $(ARGS)

.PHONY: clean
clean: ## Remove all that make has made here, the virtual environment too
	@rm -rf $(VENV) {clients,clients/*,tests/clients_js}/node_modules dist .ci/logs \
		.mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	@find services operator tests scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# --- set-up: a stamp is as new as the last time its step was done ---

$(VENV)/.made: scripts/venv.sh
	@scripts/venv.sh $(VENV) $(PYTHON)
	@touch $@

$(VENV)/.run.stamp: $(VENV)/.made pyproject.toml requirements/build.txt requirements/run.txt
	@echo "installing run-time packages into $(VENV)"
	@$(PIP) install --require-hashes -r requirements/build.txt -r requirements/run.txt
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.dev.stamp: $(VENV)/.run.stamp requirements/dev.txt
	@echo "installing packages for tests and checks into $(VENV)"
	@$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

%/node_modules/.stamp: %/package.json %/package-lock.json
	@scripts/node.sh
	@echo "installing packages into $*/node_modules"
	@$(NPM) --prefix $* ci --loglevel=error >/dev/null
	@touch $@

.PHONY: server-tools
server-tools:
	@scripts/tools.sh $(SERVER_TOOLS)

.PHONY: client-tools
client-tools:
	@scripts/tools.sh $(CLIENT_TOOLS)

# One verb per habit; each sets up what it needs first. `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOWEST := $(VENV)/lowest
WHEEL_SOURCES = $(shell find ingestion_svc analytics_svc shared fleetcli -type f -not -name '*.pyc')
PROTOS := $(wildcard protos/energyfleet/v1/*.proto)

# $(call stubs,FOLDER) generates Python, its types (mypy-protobuf: Literal names for WhichOneof) and the gRPC stubs there.
stubs = $(BIN)/python -m grpc_tools.protoc -Iprotos \
	--plugin=protoc-gen-mypy=$(BIN)/protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	--python_out=$(1) --mypy_out=quiet:$(1) --grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) $(PROTOS)

.PHONY: help setup demo test check lowest format bench proto lock up clean

help: ## list the verbs
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

setup: $(STAMP) ## make .venv with the locked versions

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Energy Fleet needs Python 3.11 or newer, this is %s; try make PYTHON=python3.12" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## stream a simulated day, show the worst vehicles, compare all of them with the truth
	@$(BIN)/energyfleet demo

up: setup ## start the database and both services; Ctrl-C stops them
	@$(BIN)/energyfleet up

test: setup ## run the whole suite in two processes
	$(BIN)/pytest -n 2

check: setup ## format, lint, types, contract, the lowest versions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	@if git cat-file -e main:protos 2>/dev/null; then $(BIN)/buf breaking --against '.git#branch=main'; fi
	@new=$$(mktemp -d) && trap 'rm -rf "$$new"' EXIT && $(call stubs,$$new) && \
		diff -r -x __pycache__ "$$new" shared/gen || { echo 'The stubs are not what protos/ says: run make proto.' >&2; exit 1; }
	@$(MAKE) --no-print-directory lowest

lowest: setup $(LOWEST)/.checked ## run the wheel with the lowest versions that it declares, unless nothing has changed
	@:

$(LOWEST)/.installed: pyproject.toml $(STAMP)
	rm -rf $(LOWEST)
	$(BIN)/uv venv --quiet --python $(BIN)/python $(LOWEST)
	$(BIN)/uv pip install --quiet --python $(LOWEST) --resolution lowest-direct --extra archive --extra plot --requirements pyproject.toml
	@touch $@

$(LOWEST)/.checked: $(LOWEST)/.installed $(WHEEL_SOURCES) tests/lowest.py
	rm -rf $(LOWEST)/dist
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir $(LOWEST)/dist .
	$(BIN)/uv pip install --quiet --python $(LOWEST) --no-deps --reinstall $(LOWEST)/dist/*.whl
	$(LOWEST)/bin/python -I tests/lowest.py
	$(LOWEST)/bin/energyfleet --help >/dev/null
	$(LOWEST)/bin/energyfleet demo --chargers 3 --hours 1 >/dev/null
	@touch $@

format: setup ## put everything into the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/buf format --write

bench: setup ## print most figures of docs/performance.md; HISTORY_ROWS=28800000 for the large one, with a month of history
	@$(BIN)/python -m benchmarks $(if $(HISTORY_ROWS),--history-rows $(HISTORY_ROWS) --days 1 --days 7 --days 30)

proto: setup ## generate the stubs anew
	$(call stubs,shared/gen)

lock: setup ## resolve the newest versions that pyproject.toml allows
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
		--group dev pyproject.toml --output-file requirements.lock
	grep -oE '^[A-Za-z0-9_.-]+==[^\\]+' requirements.lock > $(VENV)/versions.txt
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
		--constraint $(VENV)/versions.txt --extra archive pyproject.toml --output-file requirements-runtime.lock

clean: ## remove what setup made
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis

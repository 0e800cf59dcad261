# foreshard: everything a person types. Needs Python 3.11 or newer, make and access to a Python package index.
.DEFAULT_GOAL := help
.PHONY: help setup run ui bench test check lint types defs format constraints clean

PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
FORESHARD_HOME ?= .foreshard
ARGS ?=
# uv does not read pip's own variable for local wheels.
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export DAGSTER_DISABLE_TELEMETRY := 1
# Every Dagster run is a process of its own: without compiled bytecode each would spend seconds on its imports.
unexport PYTHONDONTWRITEBYTECODE

help: ## show this help
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1|/' | column -t -s '|'
	@echo; echo "  make run resumes a run that was stopped or killed and starts anew after a finished one."
	@echo "  make run ARGS=--fresh starts anew at once; make run ARGS=--help lists its options."

setup: .venv/.dev ## make the virtual environment with everything for development

run: .venv/.run ## train on 336,776 flights while Dagster re-shards them under the training job
	@$(BIN)/python -m examples.flights --home $(FORESHARD_HOME) $(ARGS)

ui: .venv/.run ## look at the demo's assets, runs and plots in the Dagster UI
	@$(BIN)/python -m examples.flights.ui --home $(FORESHARD_HOME) $(ARGS)

bench: .venv-bench/.installed ## measure against peers: make bench ARGS="materialize --quick"
	.venv-bench/bin/python -m benchmarks.$(or $(ARGS),materialize)

test: .venv/.dev ## run every test; they start the servers they need
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

check: lint types defs test ## everything that CI checks: ruff, pyright, dg check defs, tests

lint: .venv/.dev ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.dev ## pyright, strict on foreshard/
	$(BIN)/pyright

defs: .venv/.dev ## load and validate the Dagster definitions
	$(BIN)/dg check defs

format: .venv/.dev ## let ruff format and fix what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

constraints: .venv/.dev ## pin every installed version in constraints.txt
	$(BIN)/python tools/pin.py > constraints.partial && mv constraints.partial constraints.txt

clean: ## remove the virtual environment and the demo's data
	rm -rf .venv .venv-bench $(FORESHARD_HOME)

.venv/.run: EXTRAS := dagster,demo
.venv/.run: pyproject.toml constraints.txt | .venv/bin/uv
	$(install)

.venv/.dev: EXTRAS := dev,demo
.venv/.dev: pyproject.toml constraints.txt | .venv/bin/uv
	$(install)
	@touch .venv/.run

# uv installs in seconds; where it cannot reach the index that pip is configured for, pip itself does it.
define install
@echo "installing foreshard[$(EXTRAS)]"
@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e '.[$(EXTRAS)]' || \
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(EXTRAS)]'
@touch $@
endef

# Peers need an older numpy than development does; PEERS come without their dependencies, see pyproject.toml.
PEERS := mosaicml-streaming litdata webdataset
BENCH_PINS := -c benchmarks/constraints.txt

.venv-bench/.installed: pyproject.toml benchmarks/constraints.txt | .venv/bin/uv
	@echo "installing foreshard[bench] and $(PEERS)"
	@test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	@for what in "-e .[bench]" "--no-deps $(PEERS)"; do \
		$(BIN)/uv pip install --quiet --python .venv-bench/bin/python $(BENCH_PINS) $$what || \
			.venv-bench/bin/python -m pip install --quiet $(BENCH_PINS) $$what || exit 1; \
	done
	@touch $@

.venv/bin/uv:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; give it as make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv

# `make test` and `make check` set up all they need: a virtual environment from the locked, hashed dependencies.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: setup check test compose-test k8s-test fuzz demo bench bench-peers bench-autoscaler quality chaos lock audit clean help

help: ## Show what there is to make.
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(VENV)/.ready ## Make the virtual environment (by uv where it is there, by venv and pip where not).

$(VENV)/.ready: requirements/dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed; set PYTHON=")'
	@if command -v uv >/dev/null 2>&1; then \
	  uv venv --quiet --allow-existing --python $(PYTHON) $(VENV) && \
	  uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements/dev.lock && \
	  uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e . ; \
	else \
	  $(PYTHON) -m venv $(VENV) && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.lock && \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . ; \
	fi
	@touch $@

check: setup ## Lint, types, arrows between the packages.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m fleetwatch.reference --check
	$(BIN)/fleetwatch schemas check

TESTERS ?= 3

test: setup ## All tests (under 15 minutes on two cores; TESTERS=1: one after the other).
	$(BIN)/pytest -n $(TESTERS) --dist loadfile

k8s-test: setup ## The chart and the autoscaler on a real control plane (root; Go builds it once: nine minutes).
	$(BIN)/pytest tests/k8s

compose-test: setup ## The image and docker-compose.yml, executed (root, Docker; base images made where none can be pulled).
	$(BIN)/pytest -x -s tests/compose

FUZZ_SECONDS ?= 300
FUZZ_SEED ?= 1

fuzz: setup ## Fuzz the decoders (FUZZ_SECONDS=300, FUZZ_SEED=1); what is found is saved in .cache/fuzz/.
	$(BIN)/python tests/fuzz/fuzz.py --seconds $(FUZZ_SECONDS) --seed $(FUZZ_SEED)

SECONDS ?= 90

demo: setup ## A fleet, faults, alerts and a killed worker (SECONDS=90; REPLAY=1: a recorded drive instead).
	$(BIN)/fleetwatch demo $(if $(REPLAY),--replay,--seconds $(SECONDS))

bench: setup ## The common job through the real worker, against a reference; writes benchmarks/results.json.
	$(BIN)/python -m benchmarks.run

PEERS ?=

bench-peers: setup ## The common job in Kafka Streams, Flink, Bytewax, Quix, Faust and ours; writes docs/performance.md (PEERS="--only flink").
	$(BIN)/python -m benchmarks.peers.run $(PEERS)

bench-autoscaler: setup ## The scaling policy against KEDA's, the HPA's and Flink's on simulated traffic; writes docs/autoscaling-bench.md.
	$(BIN)/python -m benchmarks.autoscaler.run

DATA ?= ../shared/data

quality: setup ## Score the labelled sets through the worker's engine (DATA=../shared/data); writes docs/detection-quality.md.
	$(BIN)/python -m benchmarks.quality.run --data $(DATA)

SEED ?= 1
KILLS ?= 100
BROKER_KILLS ?= 20

chaos: setup ## Break 3 brokers and 3 workers at random, compare all results (SEED=, KILLS=, BROKER_KILLS=; half an hour).
	$(BIN)/python -m tests.chaos run --seed $(SEED) --kills $(KILLS) --broker-kills $(BROKER_KILLS) \
	  --report docs/reliability.md

UV_COMPILE = uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
  --no-emit-find-links --no-header

lock: ## Make requirements/*.lock and build.txt anew from pyproject.toml (needs uv).
	$(UV_COMPILE) pyproject.toml --group dev -o requirements/dev.lock
	$(UV_COMPILE) --no-annotate pyproject.toml -c requirements/dev.lock -o requirements/runtime.lock
	echo hatchling | $(UV_COMPILE) --no-annotate - -c requirements/dev.lock -o requirements/build.txt

audit: setup ## Check the lock's pins and hashes, then scan it for known vulnerabilities (needs a network).
	$(BIN)/pytest -q tests/unit/test_security_lock.py
	$(BIN)/python .ci/audit.py requirements/*.lock

clean: ## Remove the virtual environment and caches.
	rm -rf $(VENV) .mypy_cache .ruff_cache .hypothesis .import_linter_cache

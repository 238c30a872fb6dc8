# The one door: people, hooks and CI all call these targets.
#
#   make demo         the main job, end to end, against a local capture server
#   make test         the suite                  (make test PYTHON=3.12 for another interpreter)
#   make all          lint, types, test
#   make help         every target

SHELL := /bin/sh
.DEFAULT_GOAL := help

# Where uv is not installed, pip puts it into a private, ignored folder; outside of it only caches change, pip's and uv's.
UV := $(if $(shell command -v uv 2>/dev/null),uv,.uv/bin/uv)
UV_TO_INSTALL := $(filter-out uv,$(UV))
BOOTSTRAP_PYTHON ?= python3
PYTHON ?=
ifneq ($(PYTHON),)
export UV_PYTHON := $(PYTHON)
export UV_PROJECT_ENVIRONMENT := .venv-$(PYTHON)
# Where pyenv manages the interpreters, its shims answer only for a version that was chosen.
PYENV_MATCH := $(shell pyenv versions --bare 2>/dev/null | grep -E '^$(subst .,\.,$(PYTHON))(\.|$$)' | tail -n 1)
ifneq ($(PYENV_MATCH),)
export PYENV_VERSION := $(PYENV_MATCH)
endif
endif
# A machine that has a Python never needs another one downloaded.
export UV_PYTHON_DOWNLOADS ?= never
# Suite and benchmark start thousands of processes: each would compile our sources anew.
unexport PYTHONDONTWRITEBYTECODE

RUN := $(UV) run --locked --quiet
PYTEST_ARGS ?=

.PHONY: help demo test test-all test-next test-windows lint format types bench bench-quick bench-main soak all clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-20s %s\n", $$1, $$2}'

.uv/bin/uv:
	@echo "uv is not installed: putting it into .uv/ (private to this folder)"
	@$(BOOTSTRAP_PYTHON) -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --target .uv uv \
	  || { $(BOOTSTRAP_PYTHON) -m venv .uv/venv && .uv/venv/bin/python -m pip install --quiet uv \
	       && mkdir -p .uv/bin && ln -sf ../venv/bin/uv .uv/bin/uv; }

demo: $(UV_TO_INSTALL) ## the main job, end to end, against a local capture server
	@$(RUN) --no-default-groups --group demo python -m tests.demo

# Tests mostly wait for processes, so there are more workers than cores.
WORKERS ?= 4
test: $(UV_TO_INSTALL) ## run the test suite (WORKERS=1 for one test at a time)
	@$(RUN) pytest --numprocesses $(WORKERS) $(PYTEST_ARGS)

test-all: $(UV_TO_INSTALL) ## run the suite on 3.11 to 3.15
	@for version in 3.11 3.12 3.13; do $(MAKE) --no-print-directory test PYTHON=$$version || exit 1; done
	@$(MAKE) --no-print-directory test-next

test-next: $(UV_TO_INSTALL) ## run the suite on 3.14 and 3.15; where they are not installed, in a root of Debian's (as root)
	@for version in 3.14 3.15; do \
	  if $(UV) python find $$version >/dev/null 2>&1; then $(MAKE) --no-print-directory test PYTHON=$$version; \
	  else PYTEST_ARGS="$(PYTEST_ARGS)" $(BOOTSTRAP_PYTHON) tests/tools/next_python.py $$version -- make test; fi || exit 1; done

# PYTHON names one of Windows' Pythons here.
test-windows: $(UV_TO_INSTALL) ## run the tests that are not about POSIX on Windows' Pythons, under Wine (first time: as root)
	@UV=$(if $(UV_TO_INSTALL),$(abspath $(UV)),uv) $(BOOTSTRAP_PYTHON) tests/tools/windows_python.py $(PYTHON) -- --numprocesses $(WORKERS) $(PYTEST_ARGS)

lint: $(UV_TO_INSTALL) ## check style, formatting, and which part imports which
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) python tests/test_house.py

format: $(UV_TO_INSTALL) ## apply the formatter and the safe fixes
	@$(RUN) ruff check --fix .
	@$(RUN) ruff format .

types: $(UV_TO_INSTALL) ## mypy, strict
	@$(RUN) mypy

bench: $(UV_TO_INSTALL) ## measure against the peers and rewrite the README's figures
	@$(RUN) --group bench python -m tests.bench

bench-quick: $(UV_TO_INSTALL) ## the same, under a minute, without touching the README
	@$(RUN) --group bench python -m tests.bench --quick

bench-main: $(UV_TO_INSTALL) ## the main table alone, as one line of JSON (make bench-main PYTHON=3.14)
	@$(RUN) --group bench python -m tests.bench --main

soak: $(UV_TO_INSTALL) ## two long-lived hosts, one of them patient, against a flapping server (make soak SECONDS=600)
	@$(RUN) python -m tests.bench.soak --seconds $(or $(SECONDS),60)

all: lint types test ## lint, types, test

clean: ## remove what the targets made
	rm -rf .venv* .uv .windows .bench .mypy_cache .pytest_cache .ruff_cache .hypothesis dist

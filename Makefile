# Needs Python 3.11 or newer with venv, and make.  Debian and Ubuntu: apt install make python3 python3-venv
# (a C compiler is not needed: every dependency comes as a wheel for common machines).
#
#   make run     install into .venv and start a whole site on ./data
#   make test    everything that must hold: ruff, mypy, house rules, all tests but the slow ones
#   make check   the quick part of it, for work in progress
#   make slow    the tests that take minutes;  make bench: the benchmarks
#   make docs    write the reference pages of docs/ anew from the code
#   make setup   .venv with what developers need

.DEFAULT_GOAL := test
.PHONY: run test check slow bench docs setup lint unit

PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3 python,\
	$(shell $(name) -c 'import sys; print("$(name)") if sys.version_info >= (3, 11) else None' 2>/dev/null)))
UV := $(shell command -v uv 2>/dev/null)
BIN := .venv/bin
DATA ?= data
SEED ?= 1
UP ?=

run: .venv/.installed
	@exec $(BIN)/gridmsg up --data $(DATA) $(UP)

# The same order and the same examples each time (SEED=7 or SEED=last for others): only what changed can fail.
test: .venv/.developer lint
	GRIDMSG_SAME_EXAMPLES=1 $(BIN)/python -m pytest -q -m "not slow" --randomly-seed=$(SEED)

check: .venv/.developer lint
	$(BIN)/python -m pytest -q -m "not slow and not interop and not crash" tests/house tests/unit tests/property

# The long forms: kills, failovers, full disks, simulated crashes and 100,000 records, as the issues promise them.
slow: .venv/.developer
	GRIDMSG_SLOW=1 GRIDMSG_CRASH_ROUNDS=20 GRIDMSG_KILL_ROUNDS=100 GRIDMSG_FAILOVERS=200 GRIDMSG_FULL_SECONDS=10 \
	GRIDMSG_LEASE_SEEDS=20000 GRIDMSG_CRASH_SEEDS=0:36000 GRIDMSG_FLIP_STRIDE=1 GRIDMSG_FOREIGN_CUTS=100 $(BIN)/python -m pytest -q -p no:randomly tests/crash tests/sim tests/property/test_store_flip.py \
	    tests/property/test_queue_rules_off.py \
	    tests/e2e/test_summaries.py tests/interop/test_replay_site.py tests/interop/test_rabbitmq_site.py tests/interop/test_failover_clients.py \
	    tests/interop/test_lab_run.py tests/interop/test_foreign_chaos.py

bench: .venv/.developer
	$(BIN)/gridmsg bench

docs: .venv/.developer
	$(BIN)/python -m tests.support.reference

setup: .venv/.developer

lint:
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

ifdef UV
INSTALL := $(UV) pip install --quiet --python $(BIN)/python
else
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

.venv/bin/python:
ifndef PYTHON
	@echo "Python 3.11 or newer is needed (Debian: apt install python3 python3-venv)" >&2; exit 1
endif
ifdef UV
	$(UV) venv --quiet --allow-existing --python $(PYTHON) .venv
else
	@$(PYTHON) -m venv .venv || { rm -rf .venv; \
	  echo "the venv module is missing (Debian: apt install python3-venv)" >&2; exit 1; }
endif

.venv/.installed: pyproject.toml | .venv/bin/python
	@echo "installing into .venv (once; this downloads the dependencies)"
	@$(INSTALL) -e .
	@touch $@

.venv/.developer: pyproject.toml | .venv/bin/python
	@echo "installing into .venv what developers need (once)"
	@$(INSTALL) -e '.[dev]'
	@touch $@ .venv/.installed

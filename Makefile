# SPDX-License-Identifier: LGPL-2.1-or-later

.PHONY: help demo test lint clean fight fuzz bench

PYTHON = /usr/bin/python3
VENV_PYTHON = .venv/bin/python

# Most tests wait for leases to run out rather than compute, so more workers than processors.
# loadgroup: tests of one @pytest.mark.xdist_group never run at the same time.
WORKERS ?= $(shell expr 3 \* $$(nproc))
PYTEST_ARGS ?=
DEMO_ARGS ?=

help:
	@echo "make demo    two hosts on this machine and one disk: who gets it, who is refused, and why"
	@echo "make test    ruff, mypy and every test; PYTEST_ARGS='-k NAME' to choose, WORKERS=N"
	@echo "make fight   hosts of vlhook and sanlock against each other with kills, SECONDS=N long (330)"
	@echo "make fuzz    every reader of foreign bytes, EACH=N seconds long each (60)"
	@echo "make bench   measures vlhook beside its peers: TABLES='hook leases', ROUNDS=N; as root, on an idle machine"
	@echo "make lint    ruff and mypy only"
	@echo "make clean   remove what the above made"
	@echo "demo, test, bench and lint install what they need first (scripts/bootstrap)."

demo:
	@scripts/bootstrap demo
	@$(PYTHON) -m vlhook.cli demo $(DEMO_ARGS)

# pytest comes last: its closing line, with the counts, ends the output.
test: lint
	@$(VENV_PYTHON) -m pytest -n $(WORKERS) --dist loadgroup --timeout 600 $(PYTEST_ARGS)

lint:
	@scripts/bootstrap test
	@$(VENV_PYTHON) -m ruff check .
	@$(VENV_PYTHON) -m mypy

# From 240 seconds on, hosts also stay away for so long that others take what they held.
SECONDS ?= 330
fight:
	@scripts/bootstrap test
	@VLHOOK_FIGHT_SECONDS=$(SECONDS) VLHOOK_FIGHT_PACE=0.03 $(VENV_PYTHON) -m pytest -rP tests/interop/fight $(PYTEST_ARGS)

EACH ?= 60
fuzz:
	@scripts/bootstrap test
	@VLHOOK_FUZZ_SECONDS=$(EACH) $(VENV_PYTHON) -m pytest -rP -n $(shell nproc) tests/fuzz $(PYTEST_ARGS)

# Every table of docs/performance.md, and its curves; the results are also left in build/bench.  About half an hour.
TABLES ?= all
ROUNDS ?=
RESULTS ?= build/bench
bench:
	@scripts/bootstrap bench
	@$(VENV_PYTHON) -m bench $(TABLES) $(if $(ROUNDS),--rounds $(ROUNDS)) --json $(RESULTS)
	@$(VENV_PYTHON) -m bench.curves $(RESULTS) --into $(RESULTS)

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist rpmbuild *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

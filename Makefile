# The only entry points that CI and the README use. `make help` lists them.
SEED ?= 1
PYTHON_VENV := .venv/bin/python
# Two processes: most tests keep one core busy. Those of a file stay together, since they share actors and servers.
PYTEST := OMP_NUM_THREADS=1 PYTHONHASHSEED=0 $(PYTHON_VENV) -m pytest --durations=20 -n 2 --dist loadfile

.PHONY: help setup demo test test-slow chaos lint type audit check bench bench-quick

help:
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' Makefile | expand -t 22

setup: ## create .venv and install everything (once)
	@bash scripts/setup.sh

demo: setup ## the main job on the shipped tiny model (SEED=n): runs/demo
	@if [ -e runs/demo ]; then aside=runs/demo-$$(date +%Y%m%d-%H%M%S); mv runs/demo $$aside; echo "demo: moved the old runs/demo to $$aside"; fi
	@bash scripts/grpo.sh scripts/configs/grpo_countdown_tiny.yaml --run.name demo --run.seed $(SEED)

test: setup ## the suite, 20 to 40 minutes on 2 cores
	$(PYTEST) -m "not slow"

test-slow: setup ## what is too long for `make test`, 30 to 40 minutes
	$(PYTEST) -m "slow and not chaos"

chaos: setup ## runs with faults: all of a table and 20 random ones, killed 20 times; an hour and a half
	OPENR1_CHAOS_RESULTS=benchmarks/results/chaos.json OMP_NUM_THREADS=1 PYTHONHASHSEED=0 \
		$(PYTHON_VENV) -m pytest -v -m slow tests/integration/test_faults.py tests/integration/test_kill.py
	$(PYTHON_VENV) -m benchmarks.chaos

lint: setup ## ruff, the import rules, and bandit, which looks for insecure code
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports --no-cache
	.venv/bin/bandit --quiet --configfile pyproject.toml --recursive openr1 cli reward_server eval data benchmarks experiments examples

type: setup ## mypy, strict
	$(PYTHON_VENV) -m mypy

audit: setup ## known vulnerabilities of the installed packages; needs the internet, and says NOT CHECKED without
	@bash scripts/audit.sh || [ $$? = 3 ]

check: lint type test audit ## everything that a commit needs

bench-quick: setup ## a few ratios of speed and memory, in minutes
	$(PYTHON_VENV) -m benchmarks.quick

bench: setup ## all speed and memory measurements, and their table in docs/performance.md (about 45 minutes)
	$(PYTHON_VENV) -m benchmarks.all

# `make demo` and `make test` work on a bare machine with Python 3.11 and make; each installs what it needs.
.DEFAULT_GOAL := help
.PHONY: help setup demo test check format lint types imports test-unit test-integration test-sim test-container test-guide images lock bench-pool bench-env bench-score bench-houses bench-audit nightly clean

# Found or installed by scripts/bootstrap.sh, once per make run.
UV = $(eval UV := $$(shell scripts/bootstrap.sh))$(or $(UV),$(error no uv: see above))
RUN = $(UV) run --quiet
PYTEST = timeout --kill-after=20 $(1) $(RUN) pytest

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup:  ## Install everything into .venv
	$(UV) sync --quiet

demo: setup  ## The whole loop on this machine: five policies evaluated in MuJoCo and ranked
	$(RUN) kinitro demo

test: test-unit test-integration test-sim  ## All tests that need no Docker engine

test-unit: setup  ## No I/O (budget: 5 minutes)
	$(call PYTEST,300) tests/unit

test-integration: setup  ## PostgreSQL, sockets, real processes (budget: 30 minutes)
	$(call PYTEST,1800) -n 2 --dist loadfile tests/integration

test-sim: setup  ## Simulators (budget: 20 minutes)
	$(call PYTEST,1200) -n 2 --dist loadfile tests/sim

test-container: setup  ## Docker mode, with a real engine and the images (budget: 30 minutes)
	@# The Docker SDK leaves its socket open when the engine dies under it, as one of these tests has it do.
	$(call PYTEST,1800) -W ignore::pytest.PytestUnraisableExceptionWarning tests/container

test-guide: setup  ## The user's guide as it is written: PostgreSQL at 5432, API at 8000, an engine (budget: 15 minutes)
	$(call PYTEST,900) tests/guide

images: setup  ## Build the images of Docker mode and of the services (TORCH_INDEX=none: no torch; UNITY=...: ProcTHOR too)
	$(RUN) kinitro env build metaworld
	$(if $(UNITY),$(RUN) kinitro env build procthor --unity $(UNITY))
	$(RUN) kinitro env build miner $(if $(TORCH_INDEX),--torch-index $(TORCH_INDEX))
	docker build --quiet --tag kinitro/services:v1 --build-arg KINITRO_REVISION=$$(git describe --always --abbrev=40 --dirty --exclude='*') .

check: format lint types imports test  ## What CI checks without a Docker engine, Debian's PostgreSQL or the demo

format: setup
	$(RUN) ruff format --check .

lint: setup
	$(RUN) ruff check .
	$(RUN) python scripts/lock.py $(UV) --check

types: setup
	$(RUN) mypy

imports: setup
	$(RUN) lint-imports

lock:  ## Pin the newest versions that fit (pyproject.toml and requirements.lock)
	$(RUN) --no-project python scripts/lock.py $(UV) --upgrade

bench-pool: setup  ## Task pool through HTTP: tasks created, fetched and submitted a second
	$(RUN) python bench/pool.py

bench-env: setup  ## Steps a second: bare MuJoCo against our loop
	$(RUN) python bench/env.py

bench-score: setup  ## From raw outcomes to weights
	$(RUN) python bench/score.py

bench-houses: setup  ## Seconds to draw a ProcTHOR house
	$(RUN) python bench/houses.py

bench-audit: setup  ## How soon an executor that flips a share of its verdicts is found
	$(RUN) python bench/audit.py

nightly: setup  ## Too long for every commit: the experts' full table, and the fault tests over and over
	$(RUN) python bench/experts.py
	$(RUN) python bench/env.py
	$(RUN) python bench/score.py
	for round in 1 2 3 4 5; do $(RUN) pytest tests/sim/loop tests/integration/storage || exit 1; done

clean:  ## Remove what make installed here
	rm -rf .venv .uv uv.lock .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

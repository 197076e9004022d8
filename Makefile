# Every target sets up what it needs: Python 3.11 or later and make are enough.
PYTHON ?= python3
BIN := .venv/bin

# Two at once: most tests wait for what they have started.
TEST := $(BIN)/python -m pytest --numprocesses=2 --dist=loadscope

# Programs take the compiled modules from there, and not those of the current folder.
COMPILED := PYTHONSAFEPATH=1 PYTHONPATH=$(CURDIR)/.compiled

LOCK := $(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.13 \
  --generate-hashes --no-header --no-annotate --no-emit-find-links

.PHONY: help install compile demo test test-compiled test-stack soak lint audit format bench bench-routing bench-store simulate simulate-replicas up down lock dashboards clean

help:  ## what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

# What the program needs to run, and no more.
.venv/installed: pyproject.toml
	@echo 'Installing llama-balancer and what it needs into .venv: about 75 MB'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check --editable .
	@touch $@

.venv/tests-installed: .venv/installed
	@echo 'Installing what the tests need into .venv: about 350 MB more, which takes a minute or two'
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

.compiled/installed: .venv/installed pyproject.toml docker/compile.py $(shell find app -name '*.py')
	rm -rf .compiled
	HATCH_BUILD_HOOKS_ENABLE=1 $(BIN)/pip install --quiet --disable-pip-version-check \
	  --no-deps --target .compiled .
	touch $@

SITE = $(shell $(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')

install: .venv/installed  ## set up llama-balancer in .venv/bin
	@rm -f $(SITE)/0_compiled.pth
	@echo 'llama-balancer is in $(BIN). `make compile` halves what a request costs.'

compile: .compiled/installed  ## compile the hot path as the image does, for .venv/bin/llama-balancer too
	@echo $(CURDIR)/.compiled >$(SITE)/0_compiled.pth

demo: .venv/installed  ## the balancer with two modelled servers on 127.0.0.1:18000
	$(BIN)/llama-balancer demo

test: .venv/tests-installed  ## every test that this machine can run
	$(TEST)

test-compiled: .compiled/installed .venv/tests-installed  ## the same of the compiled program, without the bundle's
	$(COMPILED) $(TEST) --import-mode=append --ignore=tests/bundle \
	  -W 'ignore:the (type, exc, tb) signature of throw:DeprecationWarning'  # mypyc's, from 3.12 on

test-stack: .venv/tests-installed  ## the compose stack, on this machine's Docker engine
	$(BIN)/python -m pytest tests/bundle/test_stack.py

soak: .venv/tests-installed  ## deaths, races and leaving clients by the ten thousand, a thousand streams; half an hour
	BALANCER_STREAMS=1000 BALANCER_STREAM_SECONDS=600 $(BIN)/python -m pytest -s tests/e2e/test_long_run.py
	BALANCER_DEATHS=480 BALANCER_RACES=20000 BALANCER_LEAVERS=20000 BALANCER_LATE_LEAVERS=600 \
	  $(BIN)/python -m pytest tests/e2e/test_retries.py tests/e2e/test_leaving_clients.py \
	  tests/e2e/test_timeouts.py tests/e2e/test_passive_health.py \
	  tests/e2e/test_replicas.py tests/e2e/test_store_failures.py
	BALANCER_MACHINE_SECONDS=120 $(BIN)/python -m pytest tests/e2e/test_joining_under_load.py
	BALANCER_RACING=1000 $(BIN)/python -m pytest tests/e2e/test_api_keys.py -k limits_hold_exactly

lint: .venv/tests-installed  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy docker/compile.py
	$(BIN)/lint-imports

audit: .venv/tests-installed  ## known weaknesses of what the image holds; asks the package index
	$(BIN)/pip install --quiet --disable-pip-version-check 'pip-audit>=2.9'
	$(BIN)/pip-audit --disable-pip --require-hashes --requirement docker/requirements.txt

format: .venv/tests-installed  ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

simulate: .venv/tests-installed  ## who gets a slot, and what that costs, in no real time
	$(BIN)/python -m tests.simulation

bench: .compiled/installed .venv/tests-installed  ## CPU and memory beside the controls, one table
	$(COMPILED) $(BIN)/python -m tests.bench

bench-routing: .venv/tests-installed  ## cached tokens and waits beside other balancers, on modelled servers
	$(BIN)/python -m tests.bench.routing

bench-store: .compiled/installed .venv/tests-installed  ## what requests cost more where balancers share a store
	$(COMPILED) $(BIN)/python -m tests.bench.store

simulate-replicas: .venv/tests-installed  ## what late news cost 100 balancers before 1,000 servers, in no real time
	$(BIN)/python -m tests.simulation.replicas

up:  ## the balancer, Prometheus and Grafana in containers
	docker compose up --build --wait --wait-timeout 120

down:  ## stop them; what Prometheus and Grafana keep stays
	docker compose --profile demo down

lock: .venv/tests-installed  ## pin what the image installs, by hashes
	$(BIN)/pip install --quiet uv
	$(LOCK) pyproject.toml --extra otel --extra valkey --output-file docker/requirements.txt
	printf '%s\n' hatchling mypy setuptools | \
	$(LOCK) - --constraint docker/requirements.txt --output-file docker/requirements-build.txt

dashboards: .venv/tests-installed  ## write Grafana's dashboards anew
	$(BIN)/python -m grafana.generate

clean:  ## forget .venv and the caches
	rm -rf .venv .compiled .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

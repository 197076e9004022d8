# Every target sets up what it needs: Python 3.11 or later and make are enough.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help install demo test test-stack lint format bench bench-routing up down lock dashboards clean

help:  ## what there is
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

install: .venv/installed  ## set up .venv

demo: .venv/installed  ## the balancer with two modelled servers on 127.0.0.1:18000
	$(BIN)/python -m tests.demo

test: .venv/installed  ## every test that this machine can run
	$(BIN)/python -m pytest

test-stack: .venv/installed  ## the compose stack, on this machine's Docker engine
	$(BIN)/python -m pytest tests/bundle/test_stack.py

lint: .venv/installed  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/installed  ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/installed  ## CPU and memory beside the controls, one table
	$(BIN)/python -m tests.bench

bench-routing: .venv/installed  ## Cached tokens and waits beside other balancers, on modelled servers
	$(BIN)/python -m tests.bench.routing

up:  ## the balancer, Prometheus and Grafana in containers
	docker compose up --build --wait --wait-timeout 120

down:  ## stop them; what Prometheus and Grafana keep stays
	docker compose --profile demo down

lock: .venv/installed  ## pin what the image installs, by hashes
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.13 --generate-hashes \
	  --no-header --no-annotate --no-emit-find-links pyproject.toml --output-file docker/requirements.txt

dashboards: .venv/installed  ## write Grafana's dashboards anew
	$(BIN)/python -m grafana.generate

clean:  ## forget .venv and the caches
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# Everything a fresh machine with Python 3.11+, make and git needs: each target installs what it uses into .venv.
# ARGS goes to the program that a target runs: make test ARGS="-k reload", make demo ARGS="--help".

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
PY := .venv/bin/python
UV := .venv/bin/uv
INSTALL := $(UV) pip install --quiet --python $(PY) --constraint constraints.txt --build-constraint constraints.txt
SPEC := pyproject.toml constraints.txt

# What wd_di promises to run on; those that this machine hasn't are skipped with a message.
PYTHONS ?= 3.11 3.12 3.13

# mock: librdkafka's mock cluster inside the demo's process; local: a real broker, started for it
KAFKA ?= $(or $(KAFKA_BOOTSTRAP_SERVERS),mock)
ARGS ?=

export UV_PYTHON_DOWNLOADS := never

.DELETE_ON_ERROR:
.PHONY: help demo test lint format docs wheel-test matrix lowest volume constraints clean

help:
	@echo "make demo [KAFKA=local] | test | lint | format | docs | wheel-test | matrix | lowest | volume | constraints | clean"

demo: .venv/$(if $(filter local,$(KAFKA)),demo-local,demo).stamp
	$(PY) -m examples.departures --kafka=$(KAFKA) $(ARGS)

test: .venv/dev.stamp .venv/kafka.stamp
	$(PY) -m pytest $(ARGS)

lint: .venv/dev.stamp
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/lint-imports

format: .venv/dev.stamp
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

docs: .venv/docs.stamp
	$(PY) -m sphinx --nitpicky --fail-on-warning --fresh-env --quiet docs docs/_build/html $(ARGS)
	@echo "docs/_build/html/index.html"

# The tests that need no real broker, on the built wheel: on each Python, and on the lowest versions that it allows.
matrix: $(PYTHONS:%=wheel-test-%)

wheel-test: wheel-test-$(firstword $(PYTHONS))

wheel-test-%: .venv/uv.stamp
	.ci/wheel $* highest $(ARGS)

lowest: .venv/uv.stamp
	.ci/wheel $(firstword $(PYTHONS)) lowest $(ARGS)

volume: .venv/dev.stamp .venv/kafka.stamp
	$(PY) -m tests.volume $(ARGS)

constraints: .venv/uv.stamp
	$(UV) pip compile --quiet --universal --upgrade --python-version 3.11 --no-emit-index-url --all-extras \
		--group build --group dev --group docs --custom-compile-command "make constraints" \
		--output-file constraints.txt pyproject.toml

clean:
	rm -rf .venv .venv-wheel dist docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/uv.stamp:
	@test -n "$(PYTHON)" || { echo "wd_di needs Python 3.11 or newer: put it on PATH or say make PYTHON=/path/to/it"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	@touch $@

.venv/demo.stamp: .venv/uv.stamp $(SPEC)
	$(INSTALL) --group demo --editable .
	@touch $@

.venv/demo-local.stamp: .venv/uv.stamp $(SPEC)
	$(INSTALL) --group demo --editable '.[local-kafka]'
	@touch $@

.venv/dev.stamp: .venv/uv.stamp $(SPEC)
	$(INSTALL) --group dev --editable '.[local-kafka]'
	@touch $@

.venv/docs.stamp: .venv/uv.stamp $(SPEC)
	$(INSTALL) --group docs --editable .
	@touch $@

# Kafka's jars, fetched before any test's clock runs. Without a network the tests that need them say so themselves.
.venv/kafka.stamp: .venv/dev.stamp wd_di/testing/_jars.py
	-test -n "$(KAFKA_BOOTSTRAP_SERVERS)" || $(PY) -m wd_di.testing._jars
	@touch $@

# Everything a fresh machine with Python 3.11+, make and git needs: each target installs what it uses into .venv.
# What stands behind two number signs is what `make help` prints.

## PYTHON=PATH     the interpreter of .venv; by default the first of python3, python3.14 ... python3.11 that is new enough
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
PY := .venv/bin/python
UV := .venv/bin/uv
INSTALL := $(UV) pip install --quiet --python $(PY) --constraint constraints.txt --build-constraint constraints.txt
SPEC := pyproject.toml constraints.txt

# What wd_di promises to run on.
## PYTHONS="3.12"  the versions for matrix; wheel-test and lowest take the first; those that this machine hasn't are skipped
PYTHONS ?= 3.11 3.12 3.13 3.14

## KAFKA=local     for demo: mock is librdkafka's, in the demo's process; local is a real broker, downloaded and started;
##                 else the address of your own. By default mock, or what KAFKA_BOOTSTRAP_SERVERS names,
##                 which test, bench and volume use, too
KAFKA ?= $(or $(KAFKA_BOOTSTRAP_SERVERS),mock)

## WORKERS=0       for test, matrix and lowest: how many processes share the tests, each with brokers of its own;
##                 they mostly wait. 0 is none besides pytest's own, as a debugger wants it
WORKERS ?= 2

## ARGS="-k x"     goes to the program that the target runs: make test ARGS="-k reload", make demo ARGS="--help"
ARGS ?=

## MINUTES=30      for chaos: how long faults are made
MINUTES ?= 5

## SEED=11         for chaos: the faults of that run again; by default others each time
SEED ?=

## TAG=v0.1.0      for package: fails if this isn't the tag of the version that is built
TAG ?=

export UV_PYTHON_DOWNLOADS := never
export WORKERS

.DELETE_ON_ERROR:
.PHONY: help demo test lint lint-code lint-files format docs changelog pictures figures package wheel-test matrix lowest bench chaos volume \
	mutants constraints jars clean

help: ## this
	@echo "make TARGET [VARIABLE=VALUE ...]"; echo
	@sed -nE 's/^([a-z-]+):[^#]*## (.*)/\1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target does; do \
		printf '  %-15s %s\n' "$$target" "$$does"; done
	@echo; sed -nE 's/^## (.*)/  \1/p' $(MAKEFILE_LIST)

demo: .venv/$(if $(filter local,$(KAFKA)),demo-local,demo).stamp ## a day of flights through a pool, with what consumers read back [KAFKA ARGS]
	$(PY) -m examples.departures --kafka=$(KAFKA) $(ARGS)

test: .venv/dev.stamp .venv/kafka.stamp ## all tests, those on a real broker included [WORKERS ARGS]
	$(PY) -m pytest --numprocesses $(WORKERS) --dist loadfile $(ARGS)

lint: lint-code lint-files ## the two below

lint-code: .venv/dev.stamp ## ruff, mypy --strict, import-linter
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/ruff format --check --config docs/snippets.toml .
	.venv/bin/mypy
	.venv/bin/lint-imports

# Only schemas that the package brings, and no network: the same answer everywhere.
lint-files: .venv/dev.stamp ## the workflows and forms against their schemas, and for weaknesses by zizmor
	.venv/bin/check-jsonschema --builtin-schema vendor.github-workflows $(wildcard .github/workflows/*.yml)
	.venv/bin/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml \
		.github/ISSUE_TEMPLATE/feature.yml
	.venv/bin/check-jsonschema --builtin-schema vendor.github-issue-config .github/ISSUE_TEMPLATE/config.yml
	.venv/bin/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	.venv/bin/check-jsonschema --builtin-schema vendor.readthedocs .readthedocs.yaml
	.venv/bin/zizmor --offline --quiet --no-progress .github

format: .venv/dev.stamp ## ruff's fixes and format, written to the files
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .
	.venv/bin/ruff format --config docs/snippets.toml .

docs: .venv/docs.stamp ## the site in docs/_build/html; warnings are errors [ARGS]
	$(PY) -m sphinx --nitpicky --fail-on-warning --fresh-env --quiet docs docs/_build/html $(ARGS)
	@echo "docs/_build/html/index.html"

# The fragments are the source, and the site always shows them; here they go into the file that others read.
changelog: .venv/docs.stamp ## CHANGELOG.md with the changes that aren't released yet
	$(PY) docs/changelog.py > .venv/changelog.md
	mv .venv/changelog.md CHANGELOG.md

# docs/pictures/*.txt are the sources; what they give is committed, since the README shows it.
pictures: .venv/uv.stamp ## the pictures of the documentation, drawn from their text
	$(PY) docs/pictures/draw.py

# After `make bench ARGS="--save docs/performance.json"`; what they give is committed, too.
figures: .venv/dev.stamp ## the tables and charts of the pages, from docs/performance.json
	$(PY) -m tests.bench --from docs/performance.json --charts --page docs/performance.md --page docs/when.md

# What the package index gets, checked as the index would and for what is missing.
package: .venv/dev.stamp ## the wheel and the source distribution in dist, checked for the package index [TAG]
	@test -z "$(TAG)" || test "$(TAG)" = "v$$($(PY) -c 'import wd_di; print(wd_di.__version__)')" \
		|| { echo "the tag $(TAG) isn't the version of wd_di/_version.py"; exit 1; }
	rm -rf dist
	$(UV) build --quiet --build-constraint constraints.txt --out-dir dist
	.venv/bin/twine check --strict dist/*
	.venv/bin/pyroma --min=10 --file dist/*.tar.gz

wheel-test: wheel-test-$(firstword $(PYTHONS)) ## the tests that need no real broker, on the built wheel [PYTHONS WORKERS ARGS]

matrix: $(PYTHONS:%=wheel-test-%) ## the same on every Python [PYTHONS WORKERS ARGS]

wheel-test-%: .venv/uv.stamp
	.ci/wheel $* highest $(ARGS)

lowest: .venv/uv.stamp ## the same with the lowest versions that the wheel allows [PYTHONS WORKERS ARGS]
	.ci/wheel $(firstword $(PYTHONS)) lowest $(ARGS)

bench: .venv/bench.stamp .venv/kafka.stamp ## measures the figures that the pages quote, against what one would take instead, in 40 minutes [ARGS]
	$(PY) -m tests.bench $(ARGS)

chaos: .venv/dev.stamp .venv/kafka.stamp ## kills, freezes and cuts off brokers and writers, then proves what was reported [MINUTES SEED ARGS]
	$(PY) -m tests.chaos --minutes $(MINUTES) $(if $(SEED),--seed $(SEED)) $(ARGS)

volume: .venv/dev.stamp .venv/kafka.stamp ## the flights of a whole year through a pool, each looked for afterwards [ARGS]
	$(PY) -m tests.volume $(ARGS)

# What survived is kept in .venv, for ARGS=--survivors.
mutants: .venv/dev.stamp ## small mistakes in the slot table and in transactions: does a test notice each of them? [ARGS]
	$(PY) -m tests.mutants $(ARGS)

constraints: .venv/uv.stamp ## constraints.txt anew, with the newest versions of everything
	$(UV) pip compile --quiet --universal --upgrade --python-version 3.11 --no-emit-index-url --all-extras \
		--group build --group bench --group dev --group docs --custom-compile-command "make constraints" \
		--output-file constraints.txt pyproject.toml

jars: .venv/dev.stamp ## wd_di/testing/jars.sha256 anew: what LocalKafka downloads, with its sums
	$(PY) -m tests.jars

clean: ## removes all that the targets have made
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

.venv/bench.stamp: .venv/dev.stamp
	$(INSTALL) --group bench
	@touch $@

.venv/docs.stamp: .venv/uv.stamp $(SPEC)
	$(INSTALL) --group docs --editable .
	@touch $@

# Kafka's jars, fetched before any test's clock runs. Without a network the tests that need them say so themselves.
.venv/kafka.stamp: .venv/dev.stamp wd_di/testing/_jars.py wd_di/testing/jars.sha256
	-test -n "$(KAFKA_BOOTSTRAP_SERVERS)" || $(PY) -m wd_di.testing._jars
	@touch $@

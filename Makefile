# The shop's commands. They need make and a python3 of 3.11 or newer, nothing else: no Docker, no database.
#
#   make demo ARGS="--exit --json"        arguments go through ARGS
#   make test PYTHON=python3.13           another Python than the one that uv finds

.DEFAULT_GOAL := help
.PHONY: help demo up locust test model lint bench torture lists mutants readme openapi openapi-lint fuzz

PYTHON ?= python3
ARGS ?=

# Only a Python that was asked for is forced on uv; else it keeps the environment's, or takes the newest that fits.
ifneq ($(origin PYTHON),file)
export UV_PYTHON := $(PYTHON)
endif

# uv from PATH if it runs (a shim may not), or one of our own in .uv/.
UV := $(shell uv --version >/dev/null 2>&1 && echo uv || echo .uv/bin/uv)
UV_INSTALLED := $(filter .uv/bin/uv,$(UV))
RUN := $(UV) run --frozen

# A test that ran out of time is tried once more, as the machine may have stood still; one that saw a broken rule is not.
RERUN := --reruns 1 --only-rerun '^(OutOfTime|TimeoutError|ReadTimeout|ConnectTimeout)\b' --only-rerun '^Failed: Timeout'

help:
	@echo "make demo    a whole flash sale on this machine, with a verdict at the end           (ARGS=\"--exit --json\")"
	@echo "make up      the shop on this machine, with its data kept in .shop/"
	@echo "make locust  shoppers by Locust for a shop that is up      (ARGS=\"--headless --users 1000 --run-time 1m\")"
	@echo "make test    every test                                                              (ARGS=\"-k story\")"
	@echo "make model   the shop beside a model of it, a million random steps                  (ARGS=\"--steps 20000 --seed 1\")"
	@echo "make lint    style, types and who may import whom"
	@echo "make bench   the shop beside other ways to build it                                  (ARGS=\"--quick\")"
	@echo "make torture the shop broken again and again, and held to every promise              (ARGS=\"--minutes 60\")"
	@echo "make lists   five million rows of all that admins list, and the time of each page    (ARGS=\"--rows 100000\")"
	@echo "make mutants the shop broken on purpose, in copies: does a test notice?              (ARGS=--list)"
	@echo "make fuzz    made-up requests, judged by the OpenAPI document                       (ARGS=\"--minutes 10 --seed 1\")"
	@echo "make openapi the OpenAPI document, written anew to docs/openapi.json"
	@echo "make openapi-lint  that document read by Redocly, Spectral and openapi-typescript (needs npm)"
	@echo "make readme  the README's figures and the configuration page, written anew"

demo: $(UV_INSTALLED)
	@$(RUN) shop demo $(ARGS)

up: $(UV_INSTALLED)
	@$(RUN) shop up $(ARGS)

locust: $(UV_INSTALLED)
	@$(RUN) --group load locust -f loadtests/crowd/locustfile.py $(ARGS)

test: $(UV_INSTALLED)
	@$(RUN) pytest -n 2 --dist loadfile --no-loadscope-reorder $(RERUN) $(ARGS)

model: $(UV_INSTALLED)
	@$(RUN) python -m tests.invariants $(ARGS)

lint: $(UV_INSTALLED)
	@$(RUN) ruff check .
	@$(RUN) ruff format --check .
	@$(RUN) mypy
	@$(RUN) lint-imports

bench: $(UV_INSTALLED)
	@$(RUN) python -m loadtests.bench --write $(ARGS)

torture: $(UV_INSTALLED)
	@$(RUN) python -m loadtests.torture --write $(ARGS)

lists: $(UV_INSTALLED)
	@$(RUN) python -m tests.api.listing $(ARGS)

mutants: $(UV_INSTALLED)
	@$(RUN) python -m tests.mutants $(ARGS)

fuzz: $(UV_INSTALLED)
	@$(RUN) python -m tests.api.fuzz $(ARGS)

openapi: $(UV_INSTALLED)
	@$(RUN) shop openapi > docs/openapi.json.new && mv docs/openapi.json.new docs/openapi.json

OPENAPI_TOOLS := docs/openapi/node_modules
openapi-lint: $(OPENAPI_TOOLS)/.package-lock.json
	@cd docs/openapi && REDOCLY_SUPPRESS_UPDATE_NOTICE=true npx --no-install redocly lint ../openapi.json
	@cd docs/openapi && npx --no-install spectral lint ../openapi.json --fail-severity=hint
	@cd docs/openapi && npx --no-install openapi-typescript ../openapi.json -o node_modules/shop.ts
	@cd docs/openapi && npx --no-install tsc --noEmit --strict node_modules/shop.ts

$(OPENAPI_TOOLS)/.package-lock.json: docs/openapi/package-lock.json
	@cd docs/openapi && npm ci

readme: $(UV_INSTALLED)
	@$(RUN) python docs/write_readme.py
	@$(RUN) shop settings --markdown > docs/configuration.md

.uv/bin/uv:
	@$(PYTHON) -m venv --clear .uv >&2 || { echo "Python's venv is missing; on Debian: apt install python3-venv" >&2; exit 1; }
	@.uv/bin/python -m pip install --quiet --disable-pip-version-check uv >&2

# Every target builds .venv as far as it needs it; a second run finds the stamps in .venv and costs nothing.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
PIN := cd requirements && env -u PIP_FIND_LINKS -u PIP_EXTRA_INDEX_URL PIP_CONFIG_FILE=/dev/null CUSTOM_COMPILE_COMMAND="make pins" ../$(BIN)/pip-compile --quiet \
	--generate-hashes --no-emit-index-url --no-emit-find-links --strip-extras --allow-unsafe
BENCH_ARGS ?=
PYTEST_ARGS ?=

.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help demo test check bench soak pins clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 16

demo: .venv/.runtime ## record, watch and replay a scripted agent
	$(BIN)/python -m tools.demo

test: .venv/.dev ## check, then every test but the soak (PYTEST_ARGS="-k name")
	$(BIN)/python -m tools.check
	@.ci/programs
	$(BIN)/pytest $(PYTEST_ARGS)

check: .venv/.dev ## ruff, ruff format, mypy --strict
	$(BIN)/python -m tools.check

bench: .venv/.bench ## measure, each beside its peer (BENCH_ARGS="…")
	$(BIN)/python -m tools.bench --write-readme $(BENCH_ARGS)

soak: .venv/.dev ## the tests that run for minutes (PYTEST_ARGS)
	@.ci/programs
	$(BIN)/pytest -m soak $(PYTEST_ARGS)

pins: .venv/.dev ## write requirements/*.txt from *.in (PIN_ARGS="--upgrade")
	$(PIN) $(PIN_ARGS) build.in
	$(PIN) $(PIN_ARGS) runtime.in
	$(PIN) $(PIN_ARGS) dev.in
	$(PIN) $(PIN_ARGS) bench.in

clean: ## delete .venv, caches and build output
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps. Each environment contains the one before it, at the same versions.

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("error: steno needs Python 3.11 or later, this is " + sys.version.split()[0] + "\ntry: make PYTHON=python3.11")'
	$(PYTHON) -m venv .venv

.venv/.runtime: requirements/build.txt requirements/runtime.txt pyproject.toml | $(BIN)/python
	$(PIP) install --quiet --require-hashes -r requirements/build.txt -r requirements/runtime.txt
	$(PIP) install --quiet --no-deps --no-build-isolation -e .
	@touch $@

.venv/.dev: requirements/dev.txt .venv/.runtime
	$(PIP) install --quiet --require-hashes -r requirements/dev.txt
	@touch $@

.venv/.bench: requirements/bench.txt .venv/.dev
	$(PIP) install --quiet --require-hashes -r requirements/bench.txt
	@touch $@

# make repro: set up and run the main job.  make test: set up and run the tests.  Both may be repeated at any time.
.PHONY: repro test test-long bench bench-full check env
.DELETE_ON_ERROR:

PYTHON ?= python3
ENVIRONMENT := .venv/.complete
export PATH := $(CURDIR)/.venv/bin:$(PATH)

repro: env
	dvc repro
	@tcl show

test: env check
	pytest -q

# The slow tests too, about an hour. Some need root and Debian's iproute2, slurm-wlm, munge or chromium; what cannot be
# run is listed at the end, with what it needs.
test-long: env
	pytest -q -rs -m "slow or not slow"

# Times what the project does against plain PyTorch code; the table is kept in benchmarks/results.
bench: env
	python -m benchmarks

bench-full: env
	python -m benchmarks --full

check: env
	ruff check .
	ruff format --check .
	mypy

env: $(ENVIRONMENT)

# The stamp is written last, so an interrupted set-up is done again.
$(ENVIRONMENT): pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

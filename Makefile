# What a contributor or a first user runs; `make` alone prints this list.
# Everything needed is set up on the way: .ci/setup.sh tells how.

# Where the virtual environment is made. With PYTHON unset, the first python3 that is 3.10 or later makes it.
export VENV ?= .venv
export PYTHON ?=
# `no` leaves the machine's own packages alone: no apt, no sudo, the tests take the FUSE libraries they find.
export SYSTEM_PACKAGES ?= yes
# Test processes side by side, a file of tests in one of them; they wait for mounts and for time more than they compute.
# In the order of their names, because the files of many tests, which xdist would begin with, are not the long ones.
WORKERS ?= 6
# More arguments for `rescalefs demo` or pytest, e.g. make demo ARGS=--tour-only, make test ARGS="-k names".
ARGS ?=

BIN = $(VENV)/bin
PYTEST = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
SETUP = @sh .ci/setup.sh

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test test-long check format bench dist clean

help: ## Print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo '  ARGS="..."          more arguments for the demo, pytest or the benchmarks'
	@echo '  WORKERS=N           test processes side by side (6; 0 for none but pytest itself)'
	@echo '  VENV=DIR            where the virtual environment is (.venv)'
	@echo '  PYTHON=PROGRAM      the Python that makes it (the first python3 from 3.10 on)'
	@echo '  SYSTEM_PACKAGES=no  install nothing with apt, use the FUSE libraries that are there'

demo: ## Mount made-up jobs and show them, no account needed (ARGS=--tour-only leaves at once)
	$(SETUP) demo
	@$(BIN)/rescalefs demo $(ARGS)

test: ## Run the tests, on real mounts
	$(SETUP) test
	$(PYTEST) -m "not long" $(ARGS)

test-long: ## Run the tests that take minutes too, with OpenFOAM
	$(SETUP) test-long
	@# Printing the stacks of running threads can crash the process; the long tests have limits of their own.
	$(PYTEST) -o faulthandler_timeout=0 $(ARGS)

check: ## Check format, style and types
	$(SETUP) check
	@failed=0; \
	for check in "ruff format --check ." "ruff check ." "mypy --strict"; do \
		echo "$(BIN)/$$check"; $(BIN)/$$check || failed=1; \
	done; exit $$failed

format: ## Put the sources into the format that `make check` wants
	$(SETUP) check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix-only .

bench: ## Run the benchmarks, beside curl, rclone and httpdirfs (ARGS=--quick takes a minute)
	$(SETUP) bench
	$(BIN)/python -m benchmarks $(ARGS)

dist: ## Build a wheel into dist/
	$(SETUP) dist
	@rm -rf build
	$(BIN)/python -m pip --disable-pip-version-check wheel -q --no-deps -w dist .
	@rm -rf build
	@ls -l dist/*.whl

clean: ## Remove what the other targets made, the virtual environment too
	rm -rf build dist *.egg-info .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find rescalefs tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
	@[ ! -e $(VENV)/.rescalefs/made ] || rm -rf $(VENV)

# `make demo` and `make test` do all the set-up themselves; the second time they find it done.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-slow check bench chaos clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "texdiff needs Python 3.11 or newer: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/texdiff demo

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_house.py

# A quarter of an hour; BENCH=nano takes three minutes of it, BENCH=sd15 the rest.
bench: $(READY)
ifndef BENCH
	$(BIN)/python -m benchmarks.coverage
endif
	$(BIN)/python -m benchmarks.step $(BENCH)

# Half an hour: 100 kills of one run, and 1,000 damaged inputs through everything that reads.
chaos: $(READY)
	$(BIN)/python -m benchmarks.chaos --kills 100
	$(BIN)/python -m pytest -m slow tests/fuzz

clean:
	rm -rf outputs build *.egg-info

# Two commands are enough: `make run` and `make test`. Both make .venv first, from constraints.txt.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export FLWR_TELEMETRY_ENABLED := 0
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: run test test-slow lint types bench bench-secagg bench-anonymize clean

run: $(STAMP)
	$(BIN)/fedsim run digits

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile

test-slow: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or hypothesis" --hypothesis-profile=others

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP)
	$(BIN)/mypy

# PFL: the Python of an environment that has pfl-research, to be measured beside it.
bench: $(STAMP)
	for name in partition dp_sgd growth nodes; do $(BIN)/python benchmarks/$$name.py || exit 1; done
	$(BIN)/python benchmarks/compiled.py
	$(BIN)/python benchmarks/simulation/run.py --flower $(if $(PFL),--pfl $(PFL))
	$(BIN)/python benchmarks/gpu.py $(if $(PFL),--pfl $(PFL)) || [ $$? -eq 3 ] # 3: there is no GPU

bench-secagg: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/secagg.py

bench-anonymize: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/anonymize.py

# torch first and by itself: the build this machine gets must not be replaced by another.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info

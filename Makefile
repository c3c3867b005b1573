# The two commands of the README are `make demo` and `make test`; everything else is a part of them.
PYTHON ?= python3
BIN := .venv/bin
export TOKENIZERS_PARALLELISM ?= false

.PHONY: setup demo test test-slow check clean

setup: .venv/.ok

.venv/.ok: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/remask demo --out runs/demo --overwrite

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m slow

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_rooms.py

clean:
	rm -rf .venv runs

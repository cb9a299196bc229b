# `make demo` and `make test` each set up all they need: Python 3.11 or later and make are enough.
PYTHON ?= python3
BIN := .venv/bin
STUDY ?= demo/study.yaml
# Peers to agree with. Without their dependencies, which ask for packages that the comparison never touches.
PEERS := kronfluence==1.0.1 einconv==0.1.0 opt_einsum==3.4.0

.PHONY: demo test test-slow soak check ui format clean bench samples

demo: .venv/installed
	$(BIN)/influence demo demo

# Every module and every kind of check: under five minutes on two cores.
test: .venv/developed
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -m "not slow and not ui and not peer and not soak"

# What takes longer: whole studies more, Dagster's UI, and peers. With `make test` it is what every change must pass.
test-slow: .venv/developed
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal -m "(slow or ui or peer) and not soak"

# 200 random histories of a corpus, killed at random, each compared with a build from scratch, and what repeats other
# tests over every configuration, kind of damage and place to be killed at.
soak: .venv/developed
	HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest --numprocesses auto --dist worksteal -m "soak or hypothesis"

# Against kronfluence and the plain training step, on two threads: about 20 minutes; writes the tables of the README
# and of docs/benchmarks.md.
bench: .venv/developed
	$(BIN)/python -m benchmarks.bench --sizes small medium
	$(BIN)/python -m benchmarks.report

# The sample outputs, reference tables and the picture of an answer in README.md and docs/.
samples: demo .venv/developed
	$(BIN)/python -m docs.references
	$(BIN)/python -m docs.samples
	$(BIN)/python -m docs.samples --demo demo/study.yaml

check: .venv/developed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/sqlfluff lint -q sql

ui: .venv/installed
	$(BIN)/influence ui --study $(STUDY)

format: .venv/developed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv demo

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/developed: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,check]'
	$(BIN)/python -m pip install --quiet --no-deps $(PEERS)
	touch $@

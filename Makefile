# make demo    set everything up and run the main job on the embedded model, into demo/report.html
# make test    set everything up and run the tests
# make fuzz    all seeded trials: spoilt files, kill -9, full disks (make test runs a few of each)
# make docs    the tables of the README, and the documentation site into site/, every link checked
# make check   what continuous integration checks beside the tests: style, types, import contracts, docs
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test fuzz check bench docs clean

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[demo-model,web,test,docs]'
	touch $@

demo: $(STAMP)
	$(BIN)/factedit demo --out demo/report.html

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

INPUTS := 500
SEED := 0

fuzz: $(STAMP)
	PYTHONPATH=tests $(BIN)/python -m fuzz.run --inputs $(INPUTS) --seed $(SEED)
	FACTEDIT_TRIALS=all $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 tests/fuzz tests/property

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/tables.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir site

docs: $(STAMP)
	$(BIN)/python docs/tables.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir site

bench: $(STAMP)
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) demo site

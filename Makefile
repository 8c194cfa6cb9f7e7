# Every target prepares the virtual environment it needs; on a fresh machine the first one
# takes a minute or two (2.4 GB). `make help` lists the targets.

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=

PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check --no-input
LOCK   := requirements/constraints.txt
TORCH   = $(shell sed -n 's/^\(torch==[^ ]*\).*/\1/p' $(LOCK))

# the pretrained encoder of the tests and the demo comes from a package: nothing is downloaded
export HF_HUB_OFFLINE := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test test-all coverage lint docs bench gpu-wheels gpu clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' $(MAKEFILE_LIST) | \
		while IFS='|' read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

setup: $(VENV)/.package ## make the virtual environment with everything in it

# torch comes first and stays: the constraints keep later steps from replacing it. The hosts are
# installed without their dependencies, because they ask for torchvision and torchaudio, which
# nothing here uses; what they do use is in requirements/dev.txt.
$(VENV)/.requirements: requirements/hosts.txt requirements/dev.txt $(LOCK)
	@$(PYTHON) -c 'import sys; sys.exit("spikeloom needs Python 3.11 or newer; say which one: make PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	@echo "[1/5] virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "[2/5] $(TORCH)"
	@$(PIP) install -qq --constraint $(LOCK) $(TORCH)
	@echo "[3/5] SpikingJelly, snnTorch, Norse, NIR"
	@$(PIP) install -qq --no-deps --requirement requirements/hosts.txt
	@echo "[4/5] libraries and tools"
	@$(PIP) install -qq --no-warn-conflicts --constraint $(LOCK) --requirement requirements/dev.txt
	@touch $@

$(VENV)/.package: $(VENV)/.requirements pyproject.toml
	@echo "[5/5] spikeloom"
	@$(PIP) install -qq --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup ## train in three frameworks, exchange; convert a transformer; writes demo-output/
	$(PY) examples/demo.py $(ARGS)
	$(PY) examples/las_minilm.py --quick

# A process for each core, with one thread each; the tests of a file stay together, with their fixtures.
test: setup ## the tests, without the slow ones (ARGS="-k lif" selects)
	OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses auto --dist loadfile $(ARGS)

test-all: setup ## every test
	$(PY) -m pytest -m "" $(ARGS)

coverage: setup ## the share of lines and branches that the tests without the slow ones run
	OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses auto --dist loadfile --cov --cov-report=term:skip-covered $(ARGS)

lint: setup ## format, lint and type checks
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

docs: setup ## the documentation, into docs/_build/html; a warning is an error
	$(PY) -m sphinx -W --keep-going -b html docs docs/_build/html

bench: setup ## CPU benchmarks beside the three frameworks: layers, then whole networks
	$(PY) examples/benchmarks/cpu.py $(ARGS)
	$(PY) examples/benchmarks/networks.py $(ARGS)

gpu-wheels: setup ## collect in .gpu/ what a GPU machine without network lacks
	PYTHON=$(PY) examples/benchmarks/gpu/prepare.sh

gpu: ## everything that a GPU has to show, in 9 minutes; needs no network, see gpu-wheels
	PYTHON=$(PYTHON) examples/benchmarks/gpu/run.sh

clean: ## remove what the targets made, but for the virtual environment
	rm -rf build dist demo-output gpu-output docs/_build src/*.egg-info .benchmarks
	rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src plugins tests examples docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

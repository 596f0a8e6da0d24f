# Every target makes the environment it needs: only Python >= 3.11 and make have to be there.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ZOO := $(VENV)-zoo
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
# One process per core, each with one thread: the tests' networks gain nothing from a second one.
PYTEST_FLAGS = -n logical --maxprocesses 8 --dist worksteal --durations=10
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: quickstart test format lint types unit coverage zoo anycpu oldest newest bench mutation study docs site clean
.DEFAULT_GOAL := quickstart

quickstart: $(READY)  ## robust teachers, five kinds of students, a proof, a table and a page
	$(BIN)/overproof quickstart

test: lint types unit  ## what CI runs, but for counting lines

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell README.md CONTRIBUTING.md CHANGELOG.md docs src benchmarks reliability studies examples recipes

types: $(READY)
	$(BIN)/mypy

unit: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/pytest $(PYTEST_FLAGS) --junitxml=$(VENV)/report.xml

coverage: PYTEST_FLAGS += --cov --cov-report=term
coverage: unit  ## the tests while lines are counted, which takes a fifth longer

zoo: $(ZOO)/.ready  ## the tests that need timm and torchvision, in an environment of their own
	OMP_NUM_THREADS=1 $(ZOO)/bin/pytest -n logical --maxprocesses 8 --junitxml=$(ZOO)/report.xml $$(cat tests/zoo.txt)

anycpu: $(READY)  ## the tests that train, as other CPUs would compute them; ONLY=avx2 for one of them
	$(BIN)/python -m tests.anycpu $(ONLY)

oldest: RESOLUTION := lowest-direct
oldest: EXTRAS := dev
newest: RESOLUTION := highest
newest: EXTRAS := dev,zoo,lightning
oldest newest:  ## the tests with the oldest packages that pyproject.toml allows, and with the newest; each downloads a torch
	$(PYTHON) -m venv $(VENV)-$@
	$(VENV)-$@/bin/pip install --quiet uv
	$(VENV)-$@/bin/uv pip install --quiet --python $(VENV)-$@/bin/python --resolution $(RESOLUTION) --editable '.[$(EXTRAS)]'
	$(VENV)-$@/bin/pytest

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY)  ## the pages that are made from code
	$(BIN)/python docs/generate.py

site: docs  ## the documentation as pages that open from the file system: site/index.html; with npm, diagrams are drawn
	command -v npm > /dev/null && npm install --prefix docs/browser --no-audit --no-fund --loglevel=error || true
	$(BIN)/mkdocs build --strict

bench: $(READY)  ## every speed claim as a ratio, how cost grows, peak memory; writes benchmarks/results/
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.slopes 3
	$(BIN)/python -m benchmarks.footprint

mutation: $(READY)  ## whether the tests notice small changes of the source: docs/mutation.md
	nice -n 10 $(BIN)/python -m benchmarks.mutation all

study: $(READY)  ## one of the papers' claims, run or continued: make study NAME=ard-vs-at
	$(BIN)/python -m studies $(NAME)

clean:
	rm -rf $(VENV) $(ZOO) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage

# torch first and alone: where an index offers a CPU build of the pinned version, nothing else pulls in another.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("overproof needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; set PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,lightning]'
	touch $(READY)

# torchvision's files are built against the ordinary torch, not against a CPU build: === takes no such one.
$(ZOO)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(ZOO)
	$(ZOO)/bin/pip install --quiet --constraint constraints.txt 'torch===$(TORCH)' torchvision timm
	$(ZOO)/bin/pip install --quiet --constraint constraints.txt --editable '.[zoo,export]' hypothesis pytest pytest-timeout pytest-xdist
	touch $@

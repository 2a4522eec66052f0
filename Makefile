# Two doors: `make demo` and `make test`. Both make their own environment in $(VENV), and neither
# needs a GPU. To use an environment of yours: make test VENV=/path/to/environment
# Build variables: SM80MOE_CUDA_ARCHS, SM80MOE_CPU_ONLY, MAX_JOBS, CUDA_HOME, CXX.

PYTHON ?= python3
VENV ?= .venv
# Installed only where the environment has no torch yet. For a build of your choice, such as one
# that carries CUDA: make test TORCH="torch --index-url <its index>"
TORCH ?= torch==2.13.0

PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
READY := $(VENV)/.ready-for-sm80moe
CXX_FILES = $(shell find kernels tests -name '*.cu' -o -name '*.cuh' -o -name '*.cpp' -o -name '*.h')

.PHONY: demo test build wheel release-wheel build-times test-gpu format lint types check-resources compile-commands clean

demo: build
	$(PY) -m torch_sm80moe demo

test: build lint types
	$(PY) -m pytest
	$(PY) -m build_tools.receipt check

# Only what changed is compiled.
build: $(READY)
	$(PY) setup.py --quiet build_ext --inplace

wheel: $(READY)
	$(PY) -m pip wheel . --no-build-isolation --no-deps --wheel-dir dist

# Of the last commit: built twice and compared, repaired, tested in every Python named, each of which
# has torch and pytest: make release-wheel PYTHONS="/path/to/python3.10 /path/to/python3.14"
PYTHONS ?= $(PY)
release-wheel: $(READY)
	$(PY) -m build_tools.release_build --twice $(PYTHONS:%=--python %)

build-times:
	$(PY) -m build_tools.build_times

# On a machine with a GPU, after `make wheel` here or there; also without make:
#   python3 -m build_tools.gpu_suite
test-gpu: wheel
	$(PY) -m build_tools.gpu_suite

format: $(READY)
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .
	$(VENV)/bin/clang-format -i $(CXX_FILES)

lint: $(READY)
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(VENV)/bin/clang-format --dry-run --Werror $(CXX_FILES)
	$(PY) -m build_tools.check_files
	$(PY) -m build_tools.check_layers

types: $(READY)
	$(PY) -m mypy

check-resources: build
	$(PY) -m build_tools.check_resources

compile-commands: $(READY)
	$(PY) -m build_tools.compile_commands

clean:
	rm -rf build dist *.egg-info compile_commands.json
	rm -f torch_sm80moe/_C.so torch_sm80moe/_build_info.json

# The tools of the build come first, because the package is installed without isolation: it must be
# compiled once, into the tree, and not again in an environment of pip's.
$(READY): pyproject.toml build_tools/backend.py
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -c "import torch" 2>/dev/null || $(PIP) $(TORCH)
	$(PIP) "setuptools>=77"
	$(PY) -m build_tools.backend | $(PIP) --requirement /dev/stdin
	$(PIP) --no-build-isolation --editable ".[test]"
	touch $@

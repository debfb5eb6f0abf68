# make demo and make test work on a bare machine with Python 3.11 or newer; both make their own environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# without byte-compiling all of torch and its company; what is imported is compiled then, and kept
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile --constraint constraints.txt
unexport PYTHONDONTWRITEBYTECODE
SOURCES := pyproject.toml constraints.txt setup.py $(wildcard csrc/*.* csrc/*/*.*)
COMBINATIONS ?=
FUZZ ?= 2000

.DEFAULT_GOAL := help
.PHONY: help demo test test-all fuzz test-gpu lint format bench bench-gpu sanitize clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

$(VENV)/made:
	@command -v $(PYTHON) > /dev/null || { echo "error: no $(PYTHON); install Python 3.11 or newer, or name \
	one as in: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $(PYTHON) is \
	$$($(PYTHON) --version 2>&1), and fastcomb needs 3.11 or newer; name one as in: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { echo "error: $(PYTHON) cannot make environments; \
	install its venv module (Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@touch $@

# What pip does not show of a build that succeeds; without the engine the installation is not finished.
SAY = if test -e fastcomb/_native.missing; then echo "note: fastcomb's compiled engine is missing \
	($$(cat fastcomb/_native.missing)), so everything runs several times slower; \
	install a C++17 compiler (GCC or Clang) and run this again"; else touch

$(VENV)/installed-demo: $(SOURCES) | $(VENV)/made
	$(PIP) torch --editable '.[demo]'
	@$(SAY) $@; fi

$(VENV)/installed-dev: $(SOURCES) | $(VENV)/made
	$(PIP) torch --editable '.[dev]'  # which includes the demo's packages
	$(PIP) --no-deps torchvision  # its package asks for a CUDA build of torch; only tests use it
	@$(SAY) $(VENV)/installed-demo $@; fi

demo: $(VENV)/installed-demo  ## train two networks on real digits and look at up to a million combinations of them
	$(BIN)/fastcomb demo $(if $(COMBINATIONS),--combinations $(COMBINATIONS))

PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal
test: $(VENV)/installed-dev  ## run the test suite but for what is slow (under five minutes on two cores)
	$(PYTEST) -m "not slow"

test-all: $(VENV)/installed-dev  ## run all of the test suite
	$(PYTEST)

fuzz: $(VENV)/installed-dev  ## compare random networks with plain torch (2,000 take half an hour on two cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --networks $(FUZZ)

CXX_FILES := $(wildcard csrc/*.h csrc/*.cpp csrc/*/*.h csrc/*/*.cpp csrc/*/*.cu csrc/*/*.cuh)
lint: $(VENV)/installed-dev  ## check style, types, and that imports go one way
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CXX_FILES)
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/installed-dev  ## put the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CXX_FILES)

bench: $(VENV)/installed-dev  ## measure throughput beside the peers, one table (about 10 minutes)
	$(BIN)/python -m benchmarks.table

# An environment with a CUDA build of torch can be given: make test-gpu GPU_PYTHON=python3
GPU_READY := $(if $(GPU_PYTHON),,$(VENV)/installed-dev)
GPU_PYTHON ?= $(BIN)/python
test-gpu: $(GPU_READY)  ## on a GPU: run the kernels' tests compiled, then some under compute-sanitizer
	$(GPU_PYTHON) -c "import torch; raise SystemExit(None if torch.cuda.is_available() else 'no CUDA device')"
	$(GPU_PYTHON) -m pytest tests/kernels/test_triton.py tests/backends/test_gpu.py tests/backends/test_fused.py
	PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 1 \
		$(GPU_PYTHON) -m pytest tests/kernels/test_triton.py tests/backends/test_fused.py \
		-k "(epilogues or conv2d or scores or channels_last or widths or additions) and not recompute"
	compute-sanitizer --tool racecheck --error-exitcode 1 \
		$(GPU_PYTHON) -m pytest tests/backends/test_fused.py -k "widths or additions"

bench-gpu: $(GPU_READY)  ## on a GPU: measure throughput beside the peers, one table (under 8 minutes)
	$(GPU_PYTHON) -m benchmarks.gpu --json benchmarks/results

SANITIZED := build/sanitized
sanitize: $(VENV)/installed-dev  ## run the engine's tests under AddressSanitizer and UndefinedBehaviorSanitizer
	rm -rf $(SANITIZED) && mkdir -p $(SANITIZED)
	cp -r csrc fastcomb tests setup.py pyproject.toml README.md LICENSE $(SANITIZED)
	cd $(SANITIZED) && FASTCOMB_SANITIZE=1 FASTCOMB_OBJECTS=$(CURDIR)/build/objects $(CURDIR)/$(BIN)/python setup.py -q build_ext --inplace
	cd $(SANITIZED) && ASAN_OPTIONS=detect_leaks=0 \
		LD_PRELOAD="$$($${CXX:-g++} -print-file-name=libasan.so) $$($${CXX:-g++} -print-file-name=libstdc++.so)" \
		$(CURDIR)/$(BIN)/python -m pytest -x tests/kernels/test_border.py tests/backends/test_native.py tests/mixing/test_dirichlet.py -k "not fork"


clean:  ## remove the environment and everything generated
	rm -rf $(VENV) out build dist *.egg-info fastcomb/*.so fastcomb/*.missing .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

# make demo and make test work on a bare machine with Python 3.11 or newer; both make their own environment.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
COMBINATIONS ?= 125000

.DEFAULT_GOAL := help
.PHONY: help demo test test-gpu lint format bench bench-gpu sanitize fuzz clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

$(VENV)/installed-demo: pyproject.toml constraints.txt setup.py $(wildcard csrc/* csrc/cuda/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[demo]'
	touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt setup.py $(wildcard csrc/* csrc/cuda/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[dev]'  # which includes the demo's packages
	touch $(VENV)/installed-demo
	$(PIP) --no-deps torchvision  # its package asks for a CUDA build of torch; only tests use it
	touch $@

demo: $(VENV)/installed-demo  ## train two networks on real digits and look at a million combinations of them
	$(BIN)/fastcomb demo --combinations $(COMBINATIONS)

test: $(VENV)/installed-dev  ## run the test suite (about six minutes on two cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

lint: $(VENV)/installed-dev  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-dev  ## put the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/installed-dev  ## measure throughput beside the peers, one table (about 10 minutes)
	$(BIN)/python -m benchmarks.table

# An environment with a CUDA build of torch can be given: make test-gpu GPU_PYTHON=python3
GPU_READY := $(if $(GPU_PYTHON),,$(VENV)/installed-dev)
GPU_PYTHON ?= $(BIN)/python
test-gpu: $(GPU_READY)  ## on a GPU: run the kernels' tests compiled, then some under compute-sanitizer
	$(GPU_PYTHON) -c "import torch; raise SystemExit(None if torch.cuda.is_available() else 'no CUDA device')"
	$(GPU_PYTHON) -m pytest tests/test_triton.py tests/test_gpu.py tests/test_fused.py
	PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool memcheck --error-exitcode 1 \
		$(GPU_PYTHON) -m pytest tests/test_triton.py tests/test_fused.py \
		-k "(epilogues or conv2d or scores or channels_last or widths or additions) and not recompute"
	compute-sanitizer --tool racecheck --error-exitcode 1 \
		$(GPU_PYTHON) -m pytest tests/test_fused.py -k "widths or additions"

bench-gpu: $(GPU_READY)  ## on a GPU: measure throughput beside the peers, one table (under 8 minutes)
	$(GPU_PYTHON) -m benchmarks.gpu --json benchmarks/results

SANITIZED := build/sanitized
sanitize: $(VENV)/installed-dev  ## run the engine's tests under AddressSanitizer and UndefinedBehaviorSanitizer
	rm -rf $(SANITIZED) && mkdir -p $(SANITIZED)
	cp -r csrc fastcomb tests setup.py pyproject.toml README.md LICENSE $(SANITIZED)
	rm -f $(SANITIZED)/fastcomb/_native*
	$(PIP) pybind11
	cd $(SANITIZED) && FASTCOMB_SANITIZE=1 $(CURDIR)/$(BIN)/python setup.py -q build_ext --inplace
	cd $(SANITIZED) && ASAN_OPTIONS=detect_leaks=0 \
		LD_PRELOAD="$$($${CXX:-g++} -print-file-name=libasan.so) $$($${CXX:-g++} -print-file-name=libstdc++.so)" \
		$(CURDIR)/$(BIN)/python -m pytest -x tests/test_native.py tests/test_dirichlet.py -k "not fork"

NETWORKS ?= 2000
fuzz: $(VENV)/installed-dev  ## compare random networks with plain torch (2,000 take about an hour on two cores)
	$(BIN)/python -m tests.fuzz --networks $(NETWORKS)

clean:  ## remove the environment and everything generated
	rm -rf $(VENV) out build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

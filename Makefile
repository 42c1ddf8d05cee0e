# A fresh machine needs Python 3.11 or newer and make; everything else is installed into .venv.
# Works with GNU make 3.81 (macOS) and a POSIX sh.

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Exists while a set-up runs: an interrupted set-up leaves packages that look installed but are not.
UNFINISHED := $(VENV)/.unfinished

# Seconds without data before uv aborts a download; its default of 30 is too short for packages of 500 MB.
export UV_HTTP_TIMEOUT ?= 300

# Runtimes and libraries that need conflicting package versions, or are large. Each has its own environment, named after its extra,
# and its tests, which are skipped elsewhere.
EXPORTS := .venv-exports
RUNTIMES := openvino executorch litert ray supervision cleanlab
TESTS_openvino := tests/test_export_openvino.py tests/test_classification_inference.py::test_files_pass_the_gate tests/test_joint_exports.py tests/test_latency.py::test_measured_in_the_runtime_itself
TESTS_executorch := tests/test_export_fixed.py tests/test_export_executorch.py tests/test_classification_inference.py::test_files_pass_the_gate tests/test_joint_exports.py
TESTS_litert := tests/test_export_fixed.py tests/test_export_litert.py tests/test_classification_inference.py::test_files_pass_the_gate tests/test_joint_exports.py
TESTS_ray := tests/test_ray.py tests/test_adapt_ray.py tests/test_joint_inference.py::test_ray_data_gets_both_kinds tests/test_joint_inference.py::test_a_jobs_parquet_has_both_lists
TESTS_supervision := tests/test_results.py tests/test_joint_results.py
TESTS_cleanlab := tests/test_label_errors.py
EXPORTS_READY := $(RUNTIMES:%=$(EXPORTS)/%/.ready)

.PHONY: help setup demo test test-exports test-labels $(RUNTIMES:%=test-%) lint format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     install, train on generated street scenes, evaluate, draw figures (minutes, no GPU needed)"
	@echo "make test     install, then run ruff, mypy and pytest"
	@echo "make test-exports   test each runtime in its own environment; for a single one: make test-openvino"
	@echo "make test-labels    test doctor --label-errors with cleanlab, in an environment of its own"
	@echo "make lint     run only ruff and mypy"
	@echo "make format   format the code and apply ruff's safe fixes"
	@echo "make clean    remove caches and build folders, but not runs/, data/ or .venv"
	@echo
	@echo "PYTHON=python3.12 make demo        use another Python (3.11 or newer)"
	@echo "UV_TORCH_BACKEND=cpu make demo     install PyTorch without CUDA: download 0.5 GB instead of 3 GB"

demo: setup
	$(BIN)/python tools/demo.py

# Two processes with one thread each, because torch's threads would compete for the cores. Each starts with half of the
# files, so that fixtures shared within a file are created once.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal -rs --durations=20

test-exports: $(RUNTIMES:%=test-%)

test-labels: test-cleanlab

$(RUNTIMES:%=test-%): test-%: $(EXPORTS)/%/.ready
	OMP_NUM_THREADS=1 $(EXPORTS)/$*/bin/python -m pytest -rs $(TESTS_$*)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: setup
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

setup: $(READY)

# uv instead of pip, because it resolves torch and torchvision as a matching pair from one index.
$(READY): pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "error: '$(PYTHON)' was not found. Install Python 3.11 or newer, or specify one:" \
		     "make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: dettoolkit needs Python 3.11 or newer, and '$(PYTHON)' is" \
		     "$$("$(PYTHON)" --version 2>&1). Specify a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@if [ ! -e $(UNFINISHED) ] && $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
			>/dev/null 2>&1 && $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		echo "set-up: using the environment in $(VENV)"; \
	else \
		echo "set-up: creating a Python environment in $(VENV)"; \
		"$(PYTHON)" -m venv --clear $(VENV) || { \
			echo "error: '$(PYTHON)' could not create a virtual environment (see its message above)." \
			     "On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	fi
	@touch $(UNFINISHED)
	@echo "set-up: installing PyTorch and the other packages (only once): download about 3 GB, 6 GB on disk"
	@$(BIN)/uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet --force-reinstall uv
	$(BIN)/uv pip install --python $(BIN)/python --editable '.[dev]'
	@mv $(UNFINISHED) $(READY)
	@echo "set-up: done"

# The marker is written last, so an interrupted set-up is repeated from the start.
$(EXPORTS_READY): $(EXPORTS)/%/.ready: pyproject.toml $(READY)
	@echo "set-up: creating an environment for $* in $(@D) (only once): about 6 GB on disk"
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(@D)
	$(BIN)/uv pip install --python $(@D)/bin/python --editable '.[dev,$*]'
	@touch $@

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .coverage build dist *.egg-info
	find . \( -path ./$(VENV) -o -path ./$(EXPORTS) -o -path ./runs -o -path ./data -o -path ./.git \) -prune \
		-o -type d -name __pycache__ -exec rm -rf {} +

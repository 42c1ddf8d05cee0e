# A fresh machine needs Python 3.11 or newer and make; everything else is installed into .venv.
# Works with GNU make 3.81 (macOS) and a POSIX sh.

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Present while a set-up runs: an interrupted one leaves packages that look installed and are not.
UNFINISHED := $(VENV)/.unfinished

# Seconds without a byte before uv gives a download up; its own 30 is short for packages of 500 MB.
export UV_HTTP_TIMEOUT ?= 300

# Runtimes and libraries that want other versions of the same packages: an environment each, named after its
# extra, and the tests that are skipped without it.
EXPORTS := .venv-exports
RUNTIMES := openvino executorch litert ray supervision
TESTS_openvino := tests/test_export_openvino.py tests/test_classification_inference.py::test_files_pass_the_gate
TESTS_executorch := tests/test_export_fixed.py tests/test_export_executorch.py tests/test_classification_inference.py::test_files_pass_the_gate
TESTS_litert := tests/test_export_fixed.py tests/test_export_litert.py tests/test_classification_inference.py::test_files_pass_the_gate
TESTS_ray := tests/test_ray.py
TESTS_supervision := tests/test_results.py
EXPORTS_READY := $(RUNTIMES:%=$(EXPORTS)/%/.ready)

.PHONY: help setup demo test test-exports $(RUNTIMES:%=test-%) lint format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     set up, train on generated street scenes, evaluate, draw pictures (minutes, no GPU needed)"
	@echo "make test     set up, then ruff, mypy and pytest"
	@echo "make test-exports   the tests of each runtime in an environment of its own; test-openvino is one of them"
	@echo "make lint     ruff and mypy only"
	@echo "make format   format the code and apply ruff's safe fixes"
	@echo "make clean    remove caches and build folders; never runs/, data/ or .venv"
	@echo
	@echo "PYTHON=python3.12 make demo        another Python (3.11 or newer)"
	@echo "UV_TORCH_BACKEND=cpu make demo     PyTorch without CUDA: a download of 0.5 GB instead of 3 GB"

demo: setup
	$(BIN)/python tools/demo.py

# Two processes of one thread each: torch's threads would fight over the cores. Each begins with half of the files,
# so that what the tests of a file share is made once.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist worksteal -rs --durations=20

test-exports: $(RUNTIMES:%=test-%)

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

# uv and not pip, because it resolves torch and torchvision together, as a matching pair from one place.
$(READY): pyproject.toml
	@command -v "$(PYTHON)" >/dev/null || { \
		echo "error: '$(PYTHON)' was not found. Install Python 3.11 or newer, or name one:" \
		     "make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "error: dettoolkit needs Python 3.11 or newer, and '$(PYTHON)' is" \
		     "$$("$(PYTHON)" --version 2>&1). Name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	@if [ ! -e $(UNFINISHED) ] && $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
			>/dev/null 2>&1 && $(BIN)/python -m pip --version >/dev/null 2>&1; then \
		echo "set-up: using the environment in $(VENV)"; \
	else \
		echo "set-up: making a Python environment in $(VENV)"; \
		"$(PYTHON)" -m venv --clear $(VENV) || { \
			echo "error: '$(PYTHON)' could not make a virtual environment (its message is above)." \
			     "On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	fi
	@touch $(UNFINISHED)
	@echo "set-up: installing PyTorch and the other packages, once: a download of about 3 GB, 6 GB on disk"
	@$(BIN)/uv --version >/dev/null 2>&1 || $(BIN)/python -m pip install --quiet --force-reinstall uv
	$(BIN)/uv pip install --python $(BIN)/python --editable '.[dev]'
	@mv $(UNFINISHED) $(READY)
	@echo "set-up: done"

# The mark comes last, so what was interrupted is made again from the start.
$(EXPORTS_READY): $(EXPORTS)/%/.ready: pyproject.toml $(READY)
	@echo "set-up: making an environment for $* in $(@D), once: about 6 GB on disk"
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(@D)
	$(BIN)/uv pip install --python $(@D)/bin/python --editable '.[dev,$*]'
	@touch $@

clean:
	rm -rf .mypy_cache .ruff_cache .pytest_cache .coverage build dist *.egg-info
	find . \( -path ./$(VENV) -o -path ./$(EXPORTS) -o -path ./runs -o -path ./data -o -path ./.git \) -prune \
		-o -type d -name __pycache__ -exec rm -rf {} +

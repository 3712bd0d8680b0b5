# Each target sets up the virtual environment by itself when it is missing or out of date.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
LOWEST ?= build/lowest

export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK = 1
export HF_HUB_OFFLINE ?= 1
# Whoever has it set would have each of the test processes compile every file again, in every run.
export PYTHONDONTWRITEBYTECODE =

.PHONY: demo test test-all test-outside test-browser test-lowest coverage check format bench docs results shipped clean

demo: $(VENV)/.installed
	$(BIN)/mmerc demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

# What starts processes of its own: README's commands, other systems and processors, the notebook, packages left out.
test-outside: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow --timeout 600 tests/systems tests/cli tests/experiments tests/extraction tests/features tests/corpora \
	    tests/reliability/test_processors.py \
	    tests/test_examples.py tests/test_extras.py tests/test_forms.py tests/test_packaging.py tests/test_readme.py \
	    tests/test_training.py tests/test_recognizer.py tests/test_checkpoint.py tests/test_resume.py \
	    tests/test_distributed.py::test_two_processes_have_the_gradients_of_one \
	    tests/test_distributed.py::test_the_same_epoch_is_selected \
	    --deselect tests/test_resume.py::test_after_kill_9_at_any_moment

# The pages in headless Chromium; skipped where there is none.
test-browser: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow tests/report/test_in_browser.py tests/service/test_page.py

coverage: $(VENV)/.installed-dev
	$(BIN)/python -m pytest --cov --cov-report=term

test-all: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "" --timeout 1200

# With the lowest version of each dependency that pyproject.toml admits, in an environment of its own: uv downloads
# some 3 GB for it, since torch comes with CUDA. sentence-transformers, which only the encoder's package asks for,
# would raise transformers to 5, and so would trackio. Warnings of what newer releases do otherwise are for
# `make test`, which has those.
test-lowest:
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST) --resolution lowest-direct -e ".[dev]" "sentence-transformers==5.*"
	$(LOWEST)/bin/python -m pytest -W ignore::DeprecationWarning -W ignore::PendingDeprecationWarning -W ignore::FutureWarning -k "not trackio"

# mypy knows which names of the standard library Windows and macOS lack.
check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32 src
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin src
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

# The tables of docs/performance.md, "Training and prediction"; 15 to 20 minutes on 4 quiet cores (estimated).
bench: $(VENV)/.installed-dev
	$(BIN)/python benchmarks/models.py
	$(BIN)/python benchmarks/speed.py

# The documentation as a site, in build/site.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Trains the models that come with mmerc and writes them into the package.
shipped: $(VENV)/.installed
	MMERC=$(BIN)/mmerc PYTHON=$(BIN)/python benchmarks/shipped.sh

# Everything behind docs/results.md; DATA, RUNS and JOBS are explained in the script.
results: $(VENV)/.installed
	MMERC=$(BIN)/mmerc PYTHON=$(BIN)/python benchmarks/results.sh

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[media]"
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,trackio]"
	@# Compiles the tests once; each process of a run would do so by itself.
	-@$(BIN)/python -m pytest --collect-only -q -n 0 > /dev/null
	@touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[docs]"
	@touch $@

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache

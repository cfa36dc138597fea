# Needs Python 3.11 or newer and a package index. Everything goes into .venv; nothing else on the machine changes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export JAX_PLATFORMS ?=

.PHONY: demo test nightly fuzz lint docs bench planner setup lock clean

demo: $(VENV)/.ready  ## tune a prefix on FLAN-T5-small, score it, write runs/demo/report.html
	$(BIN)/python -m prefix_jax.demo --workdir runs/demo

test: $(VENV)/.ready-dev  ## all tests, the slow ones too, but for the nightly ones
	$(BIN)/python -m pytest -q

nightly: $(VENV)/.ready-dev  ## the tests that repeat others with more families, methods and moments
	$(BIN)/python -m pytest -q -m nightly

fuzz: $(VENV)/.ready-dev  ## 20,000 damaged files of outside, read or refused in a sentence; COUNT, SEED and READER choose
	$(BIN)/python -m tests.faults --count $(or $(COUNT),20000) --seed $(or $(SEED),0) --reader "$(READER)"

bench: $(VENV)/.ready-dev  ## speed and memory beside PEFT: benchmarks/results, benchmarks/README.md
	$(BIN)/python -m benchmarks.run
	$(BIN)/python -m benchmarks.report

planner: $(VENV)/.ready  ## the TPU's compiler, for prefix_jax.plan and its tests; no TPU is needed
	$(BIN)/python -m pip install -q --disable-pip-version-check -c requirements.lock "jax[tpu]"

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: build/docs/.ready  ## the documentation as a site: build/site/index.html
	NO_MKDOCS_2_WARNING=1 build/docs/bin/mkdocs build --strict --quiet
	@echo "build/site/index.html"

setup: $(VENV)/.ready

$(VENV)/.ready: requirements.lock setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $$($(PYTHON) --version) is too old; prefix_jax needs Python 3.11 or newer (make PYTHON=python3.12 ...)"; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --editable .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready requirements-dev.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check -r requirements-dev.lock
	@touch $@

# The site is built from sources alone, in an environment of its own, without JAX.
build/docs/.ready: requirements-docs.lock
	$(PYTHON) -m venv build/docs
	build/docs/bin/python -m pip install -q --disable-pip-version-check -r requirements-docs.lock
	@touch $@

OWN := -r requirements.txt -r requirements-metrics.txt -r requirements-onnx.txt -r requirements-slurm.txt

lock:  ## resolve requirements*.txt anew into the lock files
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install -q $(OWN)
	build/lock/bin/python -m pip freeze > requirements.lock
	build/lock/bin/python -m pip install -q $(OWN) -r requirements-dev.txt
	build/lock/bin/python -m pip freeze > requirements-dev.lock
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install -q -r requirements-docs.txt
	build/lock/bin/python -m pip freeze > requirements-docs.lock
	rm -rf build/lock

clean:
	rm -rf $(VENV) build dist runs

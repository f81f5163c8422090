# The project's commands. `make demo` and `make test` need Python 3.11 or newer, make and a network, and set up the
# rest in .venv by themselves. The set-up of each target is remembered under a digest of what it depends on.
.PHONY: help demo test check bench soak fuzz clean docs

PYTHON := $(or $(PYTHON),$(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$python; break; }; done))
VENV := .venv
BIN := $(VENV)/bin
PLACE := $(shell { echo '$(CURDIR)'; $(PYTHON) -VV; } 2>/dev/null | sha256sum | cut -c 1-16)
STATE := $(PLACE)-$(shell sha256sum pyproject.toml | cut -c 1-16)
SEEDS ?= 2000
INPUTS ?= 1000000
WORKERS ?= 3

help:
	@echo 'make demo    set up, then run a federation of real processes with real models (under 60 s)'
	@echo 'make test    set up, then run all tests, WORKERS=$(WORKERS) files at once'
	@echo 'make check   format, lint, types, layers, and whether the generated documentation is current'
	@echo 'make bench   measure polls, language, inference, footprint, blobs, serving, pushdown and fanout beside their limits'
	@echo 'make soak    the simulated world over SEEDS=$(SEEDS) seeds'
	@echo 'make fuzz    the language and its frames over INPUTS=$(INPUTS) inputs'
	@echo 'make docs    write the generated parts of the documentation anew'
	@echo 'make clean   remove the environment and all caches'

demo: $(VENV)/.ready-demo-$(STATE)
	@$(BIN)/peerage demo

test: $(VENV)/.ready-test-$(STATE)
	@$(BIN)/python -m pytest -q --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

check: $(VENV)/.ready-check-$(STATE)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m docs.build --check

bench: $(VENV)/.ready-bench-$(STATE)
	@$(BIN)/python -m benchmarks language poll inference footprint blobs serving pushdown fanout

soak: $(VENV)/.ready-test-$(STATE)
	@$(BIN)/python -m tests.world --seeds $(SEEDS)

fuzz: $(VENV)/.ready-test-$(STATE)
	@$(BIN)/python -m tests.fuzz --inputs $(INPUTS)

docs: $(VENV)/.ready-demo-$(STATE)
	@$(BIN)/python -m docs.build

clean:
	rm -rf $(VENV) *.egg-info build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What each target installs: the demo runs the third-party model, the tests run the demo, read model folders, and speak
# to every face in every format.
EXTRAS_demo := demo
EXTRAS_test := test,demo,publish,arrow,otel
EXTRAS_check := check,test,demo,publish,arrow,otel
EXTRAS_bench := bench,test,demo

# What comes without its dependencies: the package of the other builds of a model, which would bring torch.
BARE_test := silero-vad==6.2.3

$(VENV)/.ready-%-$(STATE): | $(VENV)/.made-$(PLACE)
	@echo 'installing peerage[$(EXTRAS_$*)] into $(VENV), once (a minute or two)'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$(EXTRAS_$*)]'
	@$(if $(BARE_$*),$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps $(BARE_$*))
	@rm -f $(VENV)/.ready-$*-*
	@touch $@

# Another Python or another place of the clone makes the environment anew.
$(VENV)/.made-$(PLACE):
	@test -n '$(PYTHON)' || { echo 'peerage needs Python 3.11 or newer, found none: apt install python3' >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo 'this Python cannot make virtual environments; Debian keeps that apart: apt install python3-venv' >&2; \
		exit 1; }
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@touch $@

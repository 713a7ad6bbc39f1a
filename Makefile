# Needs Python 3.11+, make and a C++ compiler. `make help` lists what there is.

VENV := .venv
BIN := $(VENV)/bin
REQUIREMENTS := deploy/requirements
MODEL := .cache/demo-model

# cuda where a GPU answers, else cpu; `make setup ACCELERATOR=cpu` overrides.
ACCELERATOR ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo cuda || echo cpu)
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
CXX_FOUND := $(shell for c in "$$CXX" c++ g++ clang++; do \
	[ -n "$$c" ] && command -v $$c >/dev/null 2>&1 && echo yes && break; done)

# The stamp carries the checksum of all that decides what is installed: another list, another stamp.
LOCKS := $(sort $(wildcard $(REQUIREMENTS)/*.txt)) deploy/install.py pyproject.toml
STAMP := $(VENV)/.setup-$(ACCELERATOR)-$(shell cat $(LOCKS) | cksum | cut -d ' ' -f 1)

.DEFAULT_GOAL := help
.PHONY: help setup demo model test fuzz lint format docs lock clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' Makefile

setup: $(STAMP)  ## Install everything into .venv (ACCELERATOR=cpu|cuda)

$(STAMP): $(LOCKS)
	@case "$(ACCELERATOR)" in cpu|cuda) ;; \
	  *) echo "ACCELERATOR must be cpu or cuda, not '$(ACCELERATOR)'" >&2; exit 2;; esac
	@if [ -z "$(PYTHON)" ] || ! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then \
	  echo "Python 3.11 or newer is needed; found: $$(python3 --version 2>&1). Install it, or" \
	    "name one: make setup PYTHON=/path/to/python3.11" >&2; exit 2; fi
	@if [ -z "$(CXX_FOUND)" ]; then \
	  echo "A C++ compiler is needed (c++, g++ or clang++): on Debian, apt-get install g++" >&2; exit 2; fi
	@if ! [ -x $(BIN)/python ] && ! $(PYTHON) -m venv --clear $(VENV); then rm -rf $(VENV); \
	  echo "$(PYTHON) cannot make a virtual environment: on Debian, apt-get install python3-venv" >&2; exit 2; fi
	@$(BIN)/python deploy/install.py $(ACCELERATOR)
	@rm -f $(VENV)/.setup-*
	@touch $@

model: $(STAMP)  ## Build the demo model if it is missing
	@$(BIN)/python deploy/demo/train.py

demo: model  ## Serve the demo model, guarded, on 127.0.0.1:8000 (PORT=, ADMIN_PORT=)
	@LETHEGATE_PORT=$(PORT) LETHEGATE_ADMIN_PORT=$(ADMIN_PORT) exec $(BIN)/python -m server.demo

test: lint  ## Check everything that CI checks (ARGS= goes to pytest)
	@exec $(BIN)/python -m pytest $(ARGS)

fuzz: $(STAMP)  ## Try APIs and parsers with many generated inputs, for minutes (ARGS= goes to pytest)
	@exec $(BIN)/python -m pytest -m fuzz -s $(ARGS)

lint: $(STAMP)  ## Check style, types and who may import whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@MYPYPATH=deploy/demo:deploy $(BIN)/mypy deploy/install.py deploy/inventory.py deploy/stranger.py deploy/prometheus/reference.py \
	  deploy/demo/train.py deploy/demo/recite.py
	@MYPYPATH=docs $(BIN)/mypy docs/hooks.py docs/pictures.py docs/blocks.py
	@MYPYPATH=deploy/grafana $(BIN)/mypy deploy/grafana/generate.py deploy/grafana/pictures.py
	@$(BIN)/lint-imports --no-cache
	@git ls-files '*.py' '*.md' '*.toml' Makefile | xargs $(BIN)/codespell

format: $(STAMP)  ## Rewrite the code in the project's style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(STAMP)  ## Build the documentation into .cache/site
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict -f docs/mkdocs.yml

# Direct requirements are in the *.in files. Versions already locked are kept; UPGRADE=--upgrade
# moves them.
COMPILE = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url $(UPGRADE)
KEPT_OUT = $(addprefix --no-emit-package ,torchvision torchaudio torchcodec)

lock: $(STAMP)  ## Resolve the requirement lists again
	$(COMPILE) --override $(REQUIREMENTS)/overrides.txt --override $(REQUIREMENTS)/overrides-cpu.txt \
	  $(KEPT_OUT) --no-emit-package torch $(REQUIREMENTS)/cpu.in -o $(REQUIREMENTS)/cpu.txt
	$(COMPILE) --override $(REQUIREMENTS)/overrides.txt \
	  $(KEPT_OUT) $(REQUIREMENTS)/cuda.in -o $(REQUIREMENTS)/cuda.txt
	$(COMPILE) -c $(REQUIREMENTS)/cpu.txt $(REQUIREMENTS)/dev.in -o $(REQUIREMENTS)/dev.txt
	$(COMPILE) $(REQUIREMENTS)/uv.in -o $(REQUIREMENTS)/uv.txt

clean:  ## Remove everything that was installed, built or stored
	rm -rf $(VENV) .cache .state .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

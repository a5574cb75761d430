# Everything here sets itself up: a virtual environment in .venv, renewed when pyproject.toml or the
# versions in constraints.txt change.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.installed
READY_DEV := .venv/.installed-dev

# Compiled modules make every later start quicker.
unexport PYTHONDONTWRITEBYTECODE
.DEFAULT_GOAL := help
.PHONY: help up check check-static test fuzz oracle chaos base-images bench versions setup setup-dev compose-secrets

help: ## Show what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

up: $(READY) ## Start Slipway in the foreground and push its demo through it; Ctrl-C stops it
	@exec $(BIN)/slipway up

check: check-static test ## Everything that is checked before a change goes in

check-static: $(READY_DEV) ## Lint, format, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: $(READY_DEV) ## Run every test that can run here; ARGS= goes to pytest
	@ran() { "$$@"; status=$$?; [ $$status -eq 5 ] || [ $$status -eq 0 ] || failed=$$status; }; failed=0; \
	three="$(BIN)/python -m pytest --numprocesses 3 --dist loadfile"; \
	ran $$three -m 'not engine and not alone' $(ARGS); \
	ran $$three -m 'engine and not alone' $(ARGS); \
	ran $(BIN)/python -m pytest -m alone $(ARGS); \
	exit $$failed # 5: none of them was asked for

fuzz: CASES = 10000
fuzz: SEED = 1
fuzz: done = .pytest_cache/fuzz-$(SEED)-$(CASES)
fuzz: SECONDS = 600
fuzz: $(READY_DEV) ## Ask the API 10,000 times by its own description, goes on where it broke off; fuzz what reads webhooks for ten minutes; CASES=, SECONDS= and SEED= say how much and which
	SLIPWAY_FUZZ_CASES=$(CASES) SLIPWAY_FUZZ_SEED=$(SEED) SLIPWAY_FUZZ_DONE=$(done) \
		SLIPWAY_FUZZ_SECONDS=$(SECONDS) \
		$(BIN)/python -m pytest --timeout 3600 tests/fuzz $(ARGS)
	@rm -f $(done)

oracle: EDITS = 2000
oracle: SEED = 1
oracle: $(READY_DEV) ## Hold 2,000 random edits of a repository against a comparison of all that goes into each build; EDITS= and SEED= say how many and which
	SLIPWAY_ORACLE_EDITS=$(EDITS) SLIPWAY_ORACLE_SEED=$(SEED) \
		$(BIN)/python -m pytest -s tests/integration/test_oracle.py $(ARGS)

chaos: RUNS = 1000
chaos: SEED = 1
chaos: PLATFORMS = 3
chaos: RUNTIME = process
chaos: $(READY_DEV) ## Kill any part at any step of a release, 1,000 times, and audit what is there afterwards; RUNS=, SEED=, RUNTIME= and PLATFORMS= (side by side) say how; goes on where it broke off
	$(BIN)/python -m tests.chaos --runs $(RUNS) --seed $(SEED) --platforms $(PLATFORMS) --runtime $(RUNTIME) $(ARGS)

base-images: $(READY) ## Make the templates' base images from Debian packages, for Docker without a hub; FORCE=1 anew
	@$(BIN)/python -P -m supervisor.base_images

bench: $(READY_DEV) ## Measure the figures that we claim, beside their references; ARGS= as its --help says
	$(BIN)/python -m bench $(ARGS)

versions: $(READY_DEV) ## Move constraints.txt to the newest versions that pyproject.toml allows
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --extra dev \
		--no-header --no-annotate --no-emit-index-url pyproject.toml -o constraints.txt

compose-secrets: ## Make the secrets of docker-compose.yml in ./secrets, once
	@$(SECRETS)

setup: $(READY) ## Set up and stop there

setup-dev: $(READY_DEV)

$(READY): pyproject.toml constraints.txt
	@$(TOOLS)
	@echo "slipway: setting up .venv (once)"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(PIP) -e .
	@touch $@

$(READY_DEV): pyproject.toml constraints.txt $(READY)
	@$(PIP) -e '.[dev]'
	@touch $@

PIP = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt $$(test -t 1 || echo --quiet)

# What has to be there before us.
define TOOLS
{ $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	&& $(PYTHON) -c 'import ensurepip, venv' && git --version; } >/dev/null 2>&1 \
	|| { echo "Slipway needs Python 3.11 or later with pip and venv, git and make. On Debian 12:"; \
	echo "  apt-get install -y python3 python3-venv python3-pip git make"; exit 1; } >&2
endef

# The folder is closed to others; the files in it are read by containers whose root may not be the
# user who made them, and who has no privileges there.
define SECRETS
set -e; umask 077; mkdir -p secrets; chmod 700 secrets; \
for name in admin-password builder-token secrets-key; do \
	if [ -s secrets/$$name ]; then echo "slipway: secrets/$$name is there"; continue; fi; \
	head -c 32 /dev/urandom | base64 | tr '+/' '-_' > secrets/.$$name; \
	chmod 444 secrets/.$$name; mv secrets/.$$name secrets/$$name; \
	echo "slipway: made secrets/$$name"; \
done
endef

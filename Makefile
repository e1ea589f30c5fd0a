# Every command a person or CI needs. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.ONESHELL:

VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PACKAGES := crds operator workers[storage] infra/lab[demo]
PYTEST := $(PY) -m pytest
# Where a private registry needs its own certificate authority, uv reads the system's store too.
export UV_SYSTEM_CERTS ?= true
# Where `pip install --user` puts uv.
export PATH := $(PATH):$(HOME)/.local/bin

.PHONY: help
help:  ## List the targets
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-18s %s\n", $$1, $$2}'

.PHONY: setup
setup: $(STAMP)  ## Install the locked tools and the packages of this tree into .venv

$(STAMP): requirements.lock $(wildcard */pyproject.toml) infra/lab/pyproject.toml
	@if ! command -v uv >/dev/null; then
	  if ! python3 -m pip --version >/dev/null 2>&1; then
	    [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null || { echo "setup: needs uv, or pip to install it: https://docs.astral.sh/uv" >&2; exit 1; }
	    echo "setup: installing pip by apt-get"
	    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-pip >/dev/null
	  fi
	  python3 -m pip install --quiet --user --break-system-packages uv 2>/dev/null || python3 -m pip install --quiet --user uv
	fi
	echo "setup: .venv from requirements.lock"
	[ -x $(PY) ] || uv venv --quiet --python '>=3.11' $(VENV)
	uv pip sync --quiet --python $(PY) --require-hashes requirements.lock
	uv pip install --quiet --python $(PY) --no-deps $(foreach p,$(PACKAGES),-e './$(p)')
	touch $(STAMP)

.PHONY: demo
demo: setup  ## Run the main job on a real cluster: 500 tasks outlive two killed workers and a restarted broker
	$(PY) -m eco_lab demo

.PHONY: test
test: setup parts  ## Run every test: unit, integration, crash, contract, e2e; starts what it needs
	$(PYTEST)

# Where this may not be done, the tests that need it say so: they are skipped, or fail with CI=true.
.PHONY: parts
parts: setup  ## Start the lab and install the servers that tests run by themselves (as root)
	@if [ "$$(id -u)" != 0 ]; then echo "parts: not root, so the tests take what is there"; exit 0; fi
	if ! ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 && command -v apt-get >/dev/null; then
	  echo "parts: installing PostgreSQL's server by apt-get, without a cluster of its own"
	  mkdir -p /etc/postgresql-common
	  [ -e /etc/postgresql-common/createcluster.conf ] || echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.conf
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >/dev/null
	fi
	if ! ls -d build/debian/{rabbitmq,redis} >/dev/null 2>&1 && command -v apt-get >/dev/null; then
	  echo "parts: RabbitMQ 3.10 and Redis out of Debian 12, unpacked into build/"
	  [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || apt-get install -y -qq debian-archive-keyring >/dev/null
	  $(PY) -m tests.support.debian >/dev/null
	fi
	$(PY) -m eco_lab up --with helm --with helm-unittest

.PHONY: unit
unit: setup  ## Run the tests that need neither network nor cluster
	$(PYTEST) tests/unit tests/contract tests/test_tidy.py

.PHONY: check
check: setup  ## Lint, types, layers, and the freshness of generated files
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	$(PY) -m eco_crds --check

.PHONY: generate
generate: setup  ## Write again what is generated: definitions, schemas of values, tables, queue topology
	$(PY) -m eco_crds
	$(PY) -m eco_workers.broker --vhost eco > charts/waste/files/rabbitmq-definitions.json

.PHONY: images
images: setup  ## Build both images from this tree and bring them into the lab's nodes
	$(PY) -m eco_lab images

.PHONY: lock
lock:  ## Resolve requirements.lock again, keeping the pins that still fit
	uv pip compile --quiet --universal --generate-hashes --no-header --group dev \
	  $(foreach p,eco-crds eco-operator eco-workers eco-lab,--no-emit-package $(p)) \
	  pyproject.toml -o requirements.lock

.PHONY: up down wipe status
up: setup  ## Start the lab: a Kubernetes cluster, RabbitMQ, PostgreSQL and an S3 stand-in on this machine
	$(PY) -m eco_lab up
down: setup  ## Stop the lab; its data stays for the next start (`make wipe` removes that too)
	$(PY) -m eco_lab down
wipe: setup  ## Stop the lab and remove all of it but its cache
	$(PY) -m eco_lab down --wipe
status: setup  ## Say what of the lab runs
	$(PY) -m eco_lab status

.PHONY: bench prove
bench: bench-journal bench-worker bench-operator  ## Measure speed beside a peer or a limit; `make bench-NAME` runs one part
bench-%: setup
	$(PY) -m tests.benchmarks.$*
prove: prove-journal prove-worker prove-operator prove-cluster prove-nodes prove-probes prove-rotation prove-autoscaling prove-monitors prove-states prove-health prove-gitops prove-release prove-charts prove-rights  ## Run the counted proofs, thoroughly; `make prove-NAME` runs one part
prove-%: setup
	$(PY) -m tests.prove.$*

.PHONY: clean
clean:  ## Remove what was built here (the lab's cache stays)
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

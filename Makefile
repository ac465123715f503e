# Two commands on a fresh machine: `make demo` and `make test`. Both set up what they need first.
SHELL := /bin/bash
PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
DEMO ?= demo
PEERS := .cache/peers/daft
STUDY ?= study
SIZE ?=

.PHONY: help setup lock docs peers peers-lock bench bench-large demo study test test-slow test-chaos test-fuzz test-flink test-cluster test-prism test-dataflow test-airflow test-integrations test-kubernetes test-deploy lint format clean

help:  ## Shows what can be made.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(STAMP)  ## Makes .venv from requirements.lock; nothing while that is unchanged. TORCH_INDEX=URL: torch from there.

# What is chosen at a set-up stays chosen in this .venv: `make test` undoes no `make setup TORCH_INDEX=URL`.
# HNSWLIB_MARCH is what hnswlib is compiled for: a name, not this machine's own CPU, so that it runs on every machine
# that is no older, with the same bytes. Empty: what the compiler is set to, on x86-64 every CPU there is.
-include $(VENV)/.choices
HNSWLIB_MARCH ?= $(if $(filter x86_64,$(shell uname -m)),x86-64-v3)
TORCH_INDEX ?=

# Looked at every time, since a choice is no file; a digest says in milliseconds that there is nothing to do.
.PHONY: $(STAMP)
$(STAMP):
	@PYTHON="$(PYTHON)" VENV="$(VENV)" UV_VERSION="$(UV_VERSION)" HNSWLIB_MARCH="$(HNSWLIB_MARCH)" \
	  TORCH_INDEX="$(TORCH_INDEX)" GOALS="$(MAKECMDGOALS)" ./setup.sh

lock:  ## Writes requirements.lock again from pyproject.toml, and the part of it that images have.
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade \
	  --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links --quiet --output-file requirements.lock
	$(BIN)/uv pip compile pyproject.toml --extra item-vectors --constraint requirements.lock --universal --python-version 3.11 \
	  --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links --quiet \
	  --output-file deploy/images/requirements.lock

lint: $(STAMP)  ## Checks format, lint and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(STAMP)  ## Rewrites the code as the linter wants it.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP)  ## Builds the documentation as a site into .cache/site, with every warning an error.
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open .cache/site/index.html"

test: $(STAMP)  ## Runs the tests, two files at a time, in at most 11 CPU minutes; says which were the slowest.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations=10

test-slow: $(STAMP)  ## Runs what `make test` has a part of only: whole matrices, more kills, more damage, real receipts.
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations=10 -m slow

test-prism: $(STAMP)  ## Runs the job on Beam's Prism (needs Go) and compares with the local run.
	$(BIN)/python -m pytest tests/engines/test_prism.py

test-flink: $(STAMP)  ## Runs the job on a real Flink (needs Java, Maven); FLINK_VERSION=2.2 for the newer one; SKIP_FLINK=1 leaves it out.
	@if [ "$$SKIP_FLINK" = 1 ]; then echo "SKIP_FLINK=1: the job was NOT run on Flink"; \
	else $(BIN)/python -m pytest -s tests/engines/test_flink.py; fi

test-cluster: $(STAMP)  ## Runs the job between hosts of its own, with deploy/kubernetes' flags (needs root, ip, Java, Maven).
	$(BIN)/python -m pytest -s tests/engines/test_cluster.py

KUSTOMIZE_VERSION := v5.8.1
.cache/bin/kustomize:
	GOBIN="$(CURDIR)/.cache/bin" go install sigs.k8s.io/kustomize/kustomize/v5@$(KUSTOMIZE_VERSION)

test-kubernetes: $(STAMP) .cache/bin/kustomize  ## Renders deploy/kubernetes (needs Go), checks it by the operator's schema (Maven).
	$(BIN)/python -m pytest tests/engines/test_flink_operator.py tests/engines/test_kustomize.py

test-deploy: $(STAMP) .cache/bin/kustomize  ## Types the commands of deploy/README.md and docs/backups.md (needs Go, rsync).
	@[ -x .cache/aws/bin/python ] || $(BIN)/uv venv --quiet --python $(BIN)/python .cache/aws
	$(BIN)/uv pip install --quiet --python .cache/aws/bin/python 'awscli>=1.46,<2'
	$(BIN)/python -m pytest tests/engines/test_pages.py

# The oldest and the newest that the DAG names, each as of a day when Airflow's own dependencies fitted it.
AIRFLOWS := 3.0.6,2025-10-01 3.3.2,2026-11-25
test-airflow: $(STAMP)  ## Runs the DAG with the real Airflow, the oldest and the newest that it names, in environments of their own.
	@set -e; for one in $(AIRFLOWS); do \
	  version=$${one%,*} home=.cache/airflow-$${one%,*}; \
	  [ -x $$home/bin/python ] || $(BIN)/uv venv --quiet --python $(BIN)/python $$home; \
	  $(BIN)/uv pip install --quiet --python $$home/bin/python --exclude-newer $${one#*,} \
	    apache-airflow==$$version apache-airflow-providers-standard; \
	  AIRFLOW_PYTHON=$$home/bin/python $(BIN)/python -m pytest tests/engines/test_airflow.py; done

test-integrations: $(STAMP)  ## Reads an export with Spark (needs Java) and Feast, each in an environment of its own.
	@[ -x .cache/spark/bin/python ] || $(BIN)/uv venv --quiet --python $(BIN)/python .cache/spark
	@[ -x .cache/feast/bin/python ] || $(BIN)/uv venv --quiet --python $(BIN)/python .cache/feast
	$(BIN)/uv pip install --quiet --python .cache/spark/bin/python 'pyspark>=4.1,<4.4'
	$(BIN)/uv pip install --quiet --python .cache/feast/bin/python 'feast>=0.67,<0.68'
	$(BIN)/python -m pytest tests/engines/test_integrations.py

test-dataflow: $(STAMP)  ## Builds the job for Dataflow, offline, with Dataflow's client in a folder of its own.
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --target .cache/dataflow -r deploy/dataflow/requirements.txt
	PYTHONPATH=.cache/dataflow $(BIN)/python -m pytest tests/engines/test_dataflow.py

test-chaos: $(STAMP)  ## Kills 200 runs and 200 commands that another follows, and compares what each ends with: an hour or so.
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos --pairs 200
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.chaos --kills 200 --every-step
	OBJECT_KILLS=40 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s -m slow tests/pipelines/test_object_stores.py -k killed

test-fuzz: $(STAMP)  ## Damages roots, logs, vectors and models thousands of times, and holds the commands to what they say.
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.pipelines.test_fuzz 3000

peers: $(STAMP)  ## Makes the environment of what the product is compared with (Daft), apart from .venv.
	@VENV="$(VENV)" PEERS="$(PEERS)" TORCH_INDEX="$(TORCH_INDEX)" benchmarks/peers/setup.sh

peers-lock: $(STAMP)  ## Writes benchmarks/peers/requirements.lock again.
	@VENV="$(VENV)" PEERS="$(PEERS)" TORCH_INDEX="$(TORCH_INDEX)" benchmarks/peers/setup.sh lock

bench: peers  ## Measures speed beside peers and floors, in under half an hour on two quiet cores; ends with a table.
	$(BIN)/python -m benchmarks.everything

bench-large: peers  ## The same with a million users and a million pins: hours.
	$(BIN)/python -m benchmarks.everything --size large --out .cache/bench-large

demo: $(STAMP)  ## Trains on real receipts and runs three days of the daily job on them, into ./demo.
	$(BIN)/python -m examples.completejourney.demo --out $(DEMO)

study: $(STAMP)  ## Makes docs/reproduction.md again: up to two hours per data set; SIZE=--small takes a fraction of it.
	test -e $(STUDY)/world/world.json || \
	  $(BIN)/pinnerformer synth --out $(STUDY)/world --users 8000 --pins 5000 --start 2026-05-01 --days 120 --seed 1
	test -e $(STUDY)/world-timelines/timelines.json || \
	  $(BIN)/pinnerformer training-data --logs $(STUDY)/world/logs --pins $(STUDY)/world/pins \
	  --start 2026-05-01 --end 2026-08-28 --evaluation-share 0.3 --out $(STUDY)/world-timelines
	$(BIN)/python -m examples.completejourney.import_receipts --out $(STUDY)/receipts
	test -e $(STUDY)/receipts-timelines/timelines.json || \
	  $(BIN)/pinnerformer training-data --logs $(STUDY)/receipts/logs --pins $(STUDY)/receipts/pins \
	  --label-rule $(STUDY)/receipts/label-rule.json --start 2017-01-01 --end 2017-11-14 --evaluation-share 0.3 \
	  --out $(STUDY)/receipts-timelines
	$(BIN)/pinnerformer study --timelines $(STUDY)/receipts-timelines --pins $(STUDY)/receipts/pins --new --folds 3 $(SIZE) \
	  --out $(STUDY)/receipts-study --title "Receipts of 2,469 households"
	$(BIN)/pinnerformer study --timelines $(STUDY)/world-timelines --pins $(STUDY)/world/pins --oracle $(STUDY)/world \
	  $(SIZE) --out $(STUDY)/world-study --title "A synthetic world of 8,000 users and 5,000 pins" \
	  --beside $(STUDY)/receipts-study --page docs/reproduction.md

clean:  ## Removes what setup and the demo made.
	rm -rf $(VENV) $(DEMO)

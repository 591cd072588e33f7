# Every target does its own set-up. `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

# What is given on the command line is a value, not a text of make's: else `INPUT='A$AP.wav'` would
# look for "AP.wav".
$(foreach name,$(.VARIABLES),$(if $(filter command,$(firstword $(origin $(name)))),\
	$(eval override $(name) := $$(value $(name)))))

PYTHON ?= $(shell command -v python3.11 || command -v python3)
export PYTHON
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
BENCHMARK_VENV := .venv-benchmark
INSTALLED_BENCHMARK := $(BENCHMARK_VENV)/.installed
UV := $(BIN)/uv
UV_COMPILE := $(UV) pip compile --quiet --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-header

# Else each of the many processes compiles again what it imports: 18 s of a core for a training.
export PYTHONDONTWRITEBYTECODE :=

# What to run on. Values travel through the environment, so that spaces and quotes survive.
SOURCE ?= synthetic
DATA ?= data
MIXED ?=
NAME ?=
PROFILE ?= tiny
SET ?=
export SOURCE DATA MIXED NAME PROFILE SET

# make pipeline-run TARGET=docker (docs/containers.md)
TARGET ?=
NETWORK ?=
SHM_SIZE ?=
MEMORY ?=
GPUS ?=
MOUNTS ?=
export TARGET NETWORK SHM_SIZE MEMORY GPUS MOUNTS

# make transfer
MODE ?= features
INPUT ?=
OUT ?= results/transfer
STEPS ?=
LR ?=
CHECKPOINT ?=
METHOD ?=
APPLY_TO ?=
OVERWRITE ?=
export MODE INPUT OUT STEPS LR CHECKPOINT METHOD APPLY_TO OVERWRITE

# make train-controller, train-encoder, train-diffusion, train-separator, train-zero-shot
CONFIG ?=
SONGS ?=
DOWNLOAD ?=
RECIPE ?=
MINUTES ?=
PROCESSES ?= 1
INITIAL ?=
REFERENCES ?=
PAIRS ?=
export CONFIG SONGS DOWNLOAD RECIPE MINUTES PROCESSES INITIAL REFERENCES PAIRS

# make join-encoders
BANDS ?=
DESCRIPTORS ?=
SHARE ?= 0.6
export BANDS DESCRIPTORS SHARE

# make benchmark-console
CASES ?=
export CASES

# make benchmark-retrieval
CHAINS ?=
CHECKPOINTS ?=
export CHAINS CHECKPOINTS

# make fuzz
SEED ?=
export SEED

# make dvc-remote, dvc-pull
URL ?=
STAGES ?=
export URL STAGES

VERSION ?=
MODEL ?=
PORT ?= 5000
export VERSION MODEL PORT

# Local disk for runs and songs that lie in buckets; see mixprint/storage/scratch.py.
MIXPRINT_SCRATCH ?=
MIXPRINT_SCRATCH_LIMIT ?=
export MIXPRINT_SCRATCH MIXPRINT_SCRATCH_LIMIT

# A cluster. TOKEN is best exported: other users of the machine can see a command line.
KFP_HOST ?=
NAMESPACE ?=
TOKEN ?=
IMAGE_REPO ?=
ROOT ?=
WAIT ?=
CRON ?=
NODES ?=
GPUS_PER_NODE ?=
export KFP_HOST NAMESPACE TOKEN IMAGE_REPO ROOT WAIT CRON NODES GPUS_PER_NODE

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z][a-z-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' \
		| while IFS=$$'\t' read -r name text; do printf '  %-18s %s\n' "$$name" "$$text"; done

# ---- environment ----

$(UV): requirements-uv.txt
	"$$PYTHON" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	touch $@

$(INSTALLED): requirements.txt pyproject.toml | $(UV)
	VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --require-hashes -r requirements.txt
	VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

$(INSTALLED_DEV): requirements-dev.txt $(INSTALLED)
	VIRTUAL_ENV=$(VENV) $(UV) pip install --quiet --require-hashes -r requirements-dev.txt
	touch $@

# Apart from the others: what this benchmark needs is no part of the product.
$(INSTALLED_BENCHMARK): requirements-benchmark.txt pyproject.toml | $(UV)
	$(UV) venv --quiet --clear --python "$$PYTHON" $(BENCHMARK_VENV)
	VIRTUAL_ENV=$(BENCHMARK_VENV) $(UV) pip install --quiet --require-hashes -r requirements-benchmark.txt
	VIRTUAL_ENV=$(BENCHMARK_VENV) $(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

.PHONY: setup
setup: $(INSTALLED_DEV) ## create .venv with everything for running and developing

.PHONY: lock
lock: $(UV) ## rewrite requirements*.txt from requirements*.in, with hashes and no addresses
	$(UV_COMPILE) requirements-dev.in --output-file requirements-dev.txt
	$(UV_COMPILE) requirements.in --constraint requirements-dev.txt --output-file requirements.txt
	$(UV_COMPILE) requirements-benchmark.in --constraint requirements-dev.txt --output-file requirements-benchmark.txt

# ---- data and pipeline ----

.PHONY: data
data: $(INSTALLED) ## generate the songs of the embedded data set in data/
	$(BIN)/python -m mixprint.synthesis --out data --profile "$$PROFILE"

.PHONY: pipeline-run
pipeline-run: $(INSTALLED) $(if $(filter synthetic,$(SOURCE)),data) ## run all steps here [SOURCE= DATA= MIXED= NAME= ROOT=gs://... PROFILE= SET="section.key=value" TARGET=docker]
	@arguments=(--source "$$SOURCE" --data "$$DATA" --profile "$$PROFILE" --set "$$SET"); \
	if [ -n "$$TARGET" ]; then arguments+=(--target "$$TARGET"); fi; \
	if [ -n "$$NETWORK" ]; then arguments+=(--network "$$NETWORK"); fi; \
	if [ -n "$$SHM_SIZE" ]; then arguments+=(--shm-size "$$SHM_SIZE"); fi; \
	if [ -n "$$MEMORY" ]; then arguments+=(--memory "$$MEMORY"); fi; \
	for mount in $$MOUNTS; do arguments+=(--mount "$$mount"); done; \
	if [ -n "$$GPUS" ]; then arguments+=(--gpus "$$GPUS"); fi; \
	if [ -n "$$MIXED" ]; then arguments+=(--data "$$MIXED"); fi; \
	if [ -n "$$NAME" ]; then arguments+=(--name "$$NAME"); fi; \
	if [ -n "$$ROOT" ]; then arguments+=(--root "$$ROOT"); fi; \
	$(BIN)/python -m pipelines.run_local "$${arguments[@]}"

.PHONY: repro
repro: data ## run the same steps as DVC stages: only what has changed
	$(BIN)/dvc repro

.PHONY: dvc-remote
dvc-remote: $(INSTALLED_DEV) ## keep what DVC tracks in a folder or a bucket, too: URL=/mnt/store or URL=gs://bucket/prefix
	@if [ -z "$$URL" ]; then echo 'usage: make dvc-remote URL=/mnt/store, or URL=gs://bucket/prefix' >&2; exit 2; fi; \
	$(BIN)/dvc remote add --local --force --default store "$$URL"

.PHONY: dvc-push
dvc-push: $(INSTALLED_DEV) ## copy to the remote what it lacks of all that DVC tracks here
	$(BIN)/dvc push

.PHONY: dvc-pull
dvc-pull: $(INSTALLED_DEV) ## fetch the embedded data set and its results, nothing else of the remote [STAGES="features train"]
	@stages=(data.dvc dvc.yaml); if [ -n "$$STAGES" ]; then read -ra stages <<< "$$STAGES"; fi; \
	$(BIN)/dvc pull "$${stages[@]}"

.PHONY: transfer
transfer: $(INSTALLED) ## one song in the mix of another: INPUT= TARGET= [MODE=features|embeddings METHOD= APPLY_TO=song CHECKPOINT= OUT= OVERWRITE=1 STEPS= LR=]
	@if [ -z "$$INPUT" ] || [ -z "$$TARGET" ]; then \
		echo 'usage: make transfer INPUT=a.wav TARGET=b.wav [MODE=embeddings OUT=results/x]' >&2; exit 2; fi; \
	arguments=(--input_audio "$$INPUT" --target_audio "$$TARGET" --optimize_target "$$MODE" --output_dir "$$OUT"); \
	if [ -n "$$STEPS" ]; then arguments+=(--num_steps "$$STEPS"); fi; \
	if [ -n "$$LR" ]; then arguments+=(--lr "$$LR"); fi; \
	if [ -n "$$CHECKPOINT" ]; then arguments+=(--mixing-checkpoint "$$CHECKPOINT"); fi; \
	if [ -n "$$METHOD" ]; then arguments+=(--method "$$METHOD"); fi; \
	if [ -n "$$APPLY_TO" ]; then arguments+=(--apply-to "$$APPLY_TO"); fi; \
	if [ -n "$$OVERWRITE" ]; then arguments+=(--overwrite); fi; \
	$(BIN)/mixprint transfer "$${arguments[@]}"

.PHONY: promote
promote: $(INSTALLED) ## make a version of the registry champion by hand: VERSION=n [MODEL=name]
	@if [ -z "$$VERSION" ]; then echo 'usage: make promote VERSION=n [MODEL=name]' >&2; exit 2; fi; \
	$(BIN)/python -m components.promote.main by-hand --version "$$VERSION" $${MODEL:+--model-name "$$MODEL"}

.PHONY: rollback
rollback: $(INSTALLED) ## give `champion` back to the version before [MODEL=name]
	@$(BIN)/python -m components.promote.main rollback $${MODEL:+--model-name "$$MODEL"}

.PHONY: mlflow-ui
mlflow-ui: $(INSTALLED) ## browse runs and registry on http://127.0.0.1:5000 [PORT=]
	$(BIN)/mlflow ui --backend-store-uri "$${MLFLOW_TRACKING_URI:-sqlite:///mlstore/mlflow.db}" --port "$$PORT"

define TRAIN
if [ -n "$$CONFIG" ]; then arguments+=(--config "$$CONFIG"); fi; \
	read -ra sets <<< "$$SET"; for text in "$${sets[@]}"; do arguments+=(--set "$$text"); done; \
	$(BIN)/python -m components.train --task $(@:train-%=%) --profile "$$PROFILE" "$${arguments[@]}"
endef

.PHONY: train-encoder train-zero-shot
train-encoder: ## train the encoder on a run whose steps before are done [ROOT= PROFILE= CONFIG= SET="section.key=value"]
train-zero-shot: ## train the network of the zero-shot transfer on a run and its encoder [ROOT= PROFILE= CONFIG= SET=]
train-encoder train-zero-shot: $(INSTALLED)
	@arguments=(); if [ -n "$$ROOT" ]; then arguments+=(--root "$$ROOT"); fi; \
	$(TRAIN)

.PHONY: join-encoders
join-encoders: $(INSTALLED) ## put two trained encoders side by side, one of each backbone: BANDS= DESCRIPTORS= OUT= [SHARE=]
	@$(BIN)/python -m components.train.join --bands "$$BANDS" --descriptors "$$DESCRIPTORS" --out "$$OUT" --share "$$SHARE"

.PHONY: train-separator train-diffusion
train-separator: ## train a separator on generated songs, or on yours in MUSDB18-HQ's layout (hours) [SONGS= DOWNLOAD= RECIPE= MINUTES= PROCESSES= INITIAL= PROFILE= CONFIG= SET=]
train-diffusion: ## train a separator that draws instrumentals, likewise; an hour with PROFILE=representation [SONGS= DOWNLOAD= MINUTES= PROCESSES= INITIAL= PROFILE= CONFIG= SET=]
train-separator train-diffusion: $(INSTALLED)
	@arguments=(--out results/$(@:train-%=%) --processes "$$PROCESSES"); \
	if [ -n "$$SONGS" ]; then arguments+=(--data "$$SONGS"); else arguments+=(--generate); fi; \
	if [ -n "$$DOWNLOAD" ]; then arguments+=(--download); fi; \
	if [ -n "$$RECIPE" ]; then arguments+=(--recipe "$$RECIPE"); fi; \
	if [ -n "$$INITIAL" ]; then arguments+=(--initial "$$INITIAL"); fi; \
	if [ -n "$$MINUTES" ]; then arguments+=(--set "training.max_minutes=$$MINUTES"); fi; \
	$(TRAIN)

.PHONY: train-controller
train-controller: $(INSTALLED) ## train the network that sets the console, on songs made on the fly, or on yours: PAIRS=raw MIXED=mixed [INITIAL= REFERENCES= MINUTES= PROFILE= CONFIG= SET=]
	@arguments=(--out results/controller); \
	if [ -n "$$INITIAL" ]; then arguments+=(--initial "$$INITIAL"); fi; \
	if [ -n "$$REFERENCES" ]; then arguments+=(--references "$$REFERENCES"); fi; \
	if [ -n "$$MINUTES" ]; then arguments+=(--set "max_minutes=$$MINUTES"); fi; \
	if [ -n "$$PAIRS" ]; then arguments+=(--pairs "$$PAIRS" "$$MIXED"); fi; \
	$(TRAIN)

# ---- containers ----

IMAGE ?= mixprint:$(shell sed -n 's/^version = "\(.*\)"$$/\1/p' pyproject.toml)
BASE_IMAGE ?=
ENGINE ?=
BUILD_FLAGS ?=
export IMAGE BASE_IMAGE ENGINE BUILD_FLAGS

.PHONY: containers
containers: ## build the image of the steps with docker, podman or buildah [IMAGE= BASE_IMAGE= ENGINE= BUILD_FLAGS=]
	@containers/build.sh "$$IMAGE"

.PHONY: sbom
sbom: ## list what is in the image, as CycloneDX, in results/sbom.json [IMAGE=]
	@mkdir -p results
	@containers/sbom.sh "$$IMAGE" results/sbom.json

# ---- cluster ----

.PHONY: pipeline-compile
pipeline-compile: $(INSTALLED) ## compile the DAG to pipelines/mixprint.yaml, and the code behind each stage into dvc.yaml; both are committed
	$(BIN)/python -m pipelines.compile --out pipelines/mixprint.yaml
	$(BIN)/python -m pipelines.stages

.PHONY: argo
argo: $(INSTALLED_DEV) ## write the same DAG for Argo without Kubeflow to pipelines/mixprint-argo.yaml, which is committed
	$(BIN)/python -m pipelines.argo --out pipelines/mixprint-argo.yaml

.PHONY: trainer-runtime
trainer-runtime: $(INSTALLED_DEV) ## write the runtime of a training on several nodes to pipelines/mixprint-trainer.yaml, which is committed
	$(BIN)/python -m pipelines.trainer --out pipelines/mixprint-trainer.yaml

# What SOURCE and DATA are on this machine by default is not there on a cluster.
define SUBMIT
	@if [ -z "$$KFP_HOST" ]; then echo 'usage: make $@ KFP_HOST=https://... $(1)' >&2; exit 2; fi; \
	arguments=(--host "$$KFP_HOST" --profile "$$PROFILE" --set "$$SET"); \
	if [ '$(origin SOURCE)' != file ]; then arguments+=(--source "$$SOURCE"); fi; \
	if [ '$(origin DATA)' != file ]; then arguments+=(--data "$$DATA"); fi; \
	if [ -n "$$MIXED" ]; then arguments+=(--data "$$MIXED"); fi; \
	if [ -n "$$ROOT" ]; then arguments+=(--root "$$ROOT"); fi; \
	if [ -n "$$NAME" ]; then arguments+=(--name "$$NAME"); fi; \
	if [ -n "$$NAMESPACE" ]; then arguments+=(--namespace "$$NAMESPACE"); fi; \
	if [ -n "$$IMAGE_REPO" ]; then arguments+=(--image-repository "$$IMAGE_REPO"); fi; \
	if [ -n "$$NODES" ]; then arguments+=(--nodes "$$NODES"); fi; \
	if [ -n "$$GPUS_PER_NODE" ]; then arguments+=(--gpus-per-node "$$GPUS_PER_NODE"); fi; \
	if [ -n "$$WAIT" ]; then arguments+=(--wait); fi; \
	if [ -n "$$CRON" ]; then arguments+=(--cron "$$CRON"); fi; \
	$(BIN)/python -m pipelines.submit $(2) "$${arguments[@]}"
endef

.PHONY: pipeline-submit
pipeline-submit: $(INSTALLED) ## start a run on Kubeflow: KFP_HOST= [NAMESPACE= TOKEN= IMAGE_REPO= PROFILE= SET= SOURCE= DATA= MIXED= ROOT= NAME= NODES= GPUS_PER_NODE= WAIT=1]
	$(call SUBMIT,[WAIT=1 ...],run)

.PHONY: pipeline-upload
pipeline-upload: $(INSTALLED) ## register a version of the pipeline on Kubeflow, to be started there: KFP_HOST= [...]
	$(call SUBMIT,[...],upload)

.PHONY: pipeline-schedule
pipeline-schedule: $(INSTALLED) ## start a run on Kubeflow again and again: KFP_HOST= CRON='0 3 * * 1' [...]
	$(call SUBMIT,CRON='\''0 3 * * 1'\'' [...],schedule)

.PHONY: doctor
doctor: $(INSTALLED) ## say what is missing here, and with KFP_HOST= for a cluster [NAMESPACE= TOKEN= IMAGE_REPO=]
	@arguments=(); if [ -n "$$KFP_HOST" ]; then arguments+=(--cluster); fi; \
	$(BIN)/mixprint doctor "$${arguments[@]}"

# ---- checks ----

.PHONY: lint
lint: $(INSTALLED_DEV) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: $(INSTALLED_DEV) ## mypy on the library
	$(BIN)/mypy

.PHONY: test
test: $(INSTALLED_DEV) ## all tests, two files of them at a time
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses 2 --dist loadfile

.PHONY: check
check: lint types test ## lint, types and test

.PHONY: fuzz
fuzz: $(INSTALLED_DEV) ## read mutated audio files, thousands; those that break a rule stay in results/fuzz [MINUTES=10 SEED=]
	@arguments=(--minutes "$${MINUTES:-10}" --keep results/fuzz); \
	if [ -n "$$SEED" ]; then arguments+=(--seed "$$SEED"); fi; \
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.audio.fuzz_audio "$${arguments[@]}"

.PHONY: benchmark
benchmark: $(INSTALLED) data ## time every step of a run from nothing; writes JSON and a table
	$(BIN)/python -m benchmarks.pipeline

.PHONY: ablation
ablation: $(INSTALLED) ## train and evaluate variants of the encoder on songs made for it; hours
	$(BIN)/python -m benchmarks.ablation

.PHONY: benchmark-representation
benchmark-representation: $(INSTALLED) ## time the training of the encoder and the parts of its step; a quarter of an hour
	$(BIN)/python -m benchmarks.representation

.PHONY: benchmark-transfer
benchmark-transfer: $(INSTALLED) ## time the methods of transfer, step by step and as the command; half an hour
	$(BIN)/python -m benchmarks.transfer

.PHONY: benchmark-console
benchmark-console: $(INSTALLED) ## hold transfers and the console against the truth, and time the console; nights; a stopped run goes on [CASES=]
	$(BIN)/python -m benchmarks.console $(if $(CASES),--cases "$$CASES")

.PHONY: benchmark-own-style
benchmark-own-style: $(INSTALLED) ## learn the style of a made engineer from 10 to 300 pairs, and mix others; hours; a stopped run goes on [INITIAL= CONFIG=]
	@arguments=(); if [ -n "$$INITIAL" ]; then arguments+=(--controller "$$INITIAL"); fi; \
	if [ -n "$$CONFIG" ]; then arguments+=(--config "$$CONFIG"); fi; \
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.own_style "$${arguments[@]}"

.PHONY: benchmark-retrieval
benchmark-retrieval: $(INSTALLED_BENCHMARK) ## find chains of effects of another library again on other songs, with sox; an hour; a stopped run goes on [CHAINS= CHECKPOINTS="name=folder"]
	@arguments=(); if [ -n "$$CHAINS" ]; then arguments+=(--chains "$$CHAINS"); fi; \
	if [ -n "$$CHECKPOINTS" ]; then read -ra folders <<< "$$CHECKPOINTS"; arguments+=(--checkpoints "$${folders[@]}"); fi; \
	OMP_NUM_THREADS=1 $(BENCHMARK_VENV)/bin/python -m benchmarks.retrieval "$${arguments[@]}"

.PHONY: benchmark-separation
benchmark-separation: $(INSTALLED) ## time the separator beside a plain one, and measure its memory; half an hour
	$(BIN)/python -m benchmarks.separation

.PHONY: benchmark-diffusion
benchmark-diffusion: $(INSTALLED) ## hold the diffusion separator beside SCNet, over steps, samplers and samples, and check and time it; hours; a stopped run goes on [CHECKPOINT= SONGS=]
	@arguments=(); if [ -n "$$CHECKPOINT" ]; then arguments+=(--checkpoint "$$CHECKPOINT"); fi; \
	if [ -n "$$SONGS" ]; then arguments+=(--songs "songs=$$SONGS"); fi; \
	$(BIN)/python -m benchmarks.diffusion "$${arguments[@]}"

.PHONY: check-gpu
check-gpu: ## what only a GPU does, against the CPU, in 8 minutes; takes any Python that has torch [OUT=]
	$(or $(wildcard $(BIN)/python),$(PYTHON)) -m benchmarks.check_gpu $(if $(OUT),--out "$(OUT)")

.PHONY: clean
clean: ## remove results, tracking and caches; .venv and data/ stay
	rm -rf results mlstore .pytest_cache .mypy_cache .ruff_cache
	find components mixprint pipelines tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

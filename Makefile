# make install           .venv with exactly the packages of requirements/cpu.txt
# make install EXTRA=gpu .venv for a machine with NVIDIA GPUs, versions as pinned in pyproject.toml
# make demo              the whole method on tiny models, on this machine
# make test              linters and the default tests; test-slow and test-gpu run the others
# make test-browser      reports in a headless Chromium (part of make test where chromium and chromedriver are installed)
# make fuzz              over 5,000 odd configs, prompts, rewards and records, drawn at random (FUZZ_SEED, FUZZ_FACTOR)
# make chaos             a run of the real stack whose processes are killed at random (CHAOS_SEED, CHAOS_MINUTES)
# make miniature         the paper's tables and figures over ten small sources, three seeds (two to three hours)
# make docs              the documentation as a site, in site/
# make bench-train       cost of one training step: ours, the published method's, TRL's (BENCH=--quick for two minutes)
# make bench-sampling    responses/s of our sampling stage, ray.data.llm and raw vLLM, side by side
# make bench-scaling     1 to 32 simulated sources on 4 to 64 logical GPUs, against the ideal (BENCH=--long for all, three hours)
# make bench-control-plane  one million responses through the whole run, with an engine that takes no time
# make bench-prompt-memory  memory of reading and planning 10,000 to 1,000,000 prompts
# make audit             known vulnerabilities of the locked packages (AUDIT="--service URL" asks an OSV service of yours)
# make image IMAGE=gpu   the container image, or IMAGE=cpu for smoke runs (BUILDER=docker, podman or buildah)
# make bench-allocation  what adaptive allocation of samples keeps and spends, on recorded reward tables (two minutes)
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

PYTHON := python3.11
# What is installed stays what it is unless EXTRA says otherwise.
EXTRA ?= $(if $(wildcard .venv/.installed-gpu),gpu,cpu)
UV ?= uv
BIN := .venv/bin
STAMP := .venv/.installed-$(EXTRA)
# Warnings (package sources that lack a package, say) are no news; errors still are shown.
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONWARNINGS=ignore $(BIN)/python -m pip -qq
# The build of torch comes from wherever pip finds torch: point PIP_FIND_LINKS or PIP_EXTRA_INDEX_URL at CPU builds.
TORCH := torch==2.13.0
# All others come as wheels, so that nothing of theirs runs while they are installed. PyPI has these as source alone.
FROM_SOURCE := deepspeed,rouge-score,sqlitedict,wavedrom,word2number
IMAGE ?= gpu
BUILDER ?= docker

.PHONY: help install demo miniature test test-slow test-gpu test-browser fuzz chaos bench-train bench-allocation \
    bench-sampling bench-scaling bench-control-plane bench-prompt-memory docs lint lock lock-images image audit clean tools

help:
	@sed -n 's/^# make/make/p' Makefile

install: $(STAMP)

tools:
	@command -v $(PYTHON) >/dev/null && $(PYTHON) --version >/dev/null 2>&1 || \
	    { echo "error: $(PYTHON) is missing; install Python 3.11 and put it on the PATH" >&2; exit 1; }
	command -v g++ >/dev/null || \
	    { echo "error: g++ is missing; DeepSpeed and vLLM compile C++ when they start (Debian: apt-get install g++)" >&2; exit 1; }

$(STAMP): pyproject.toml requirements/cpu.txt | tools
	@case "$(EXTRA)" in cpu|gpu) ;; *) echo "error: EXTRA must be cpu or gpu, not $(EXTRA)" >&2; exit 1 ;; esac
	other=.venv/.installed-$(if $(filter cpu,$(EXTRA)),gpu,cpu)
	if [ -e "$$other" ]; then echo "error: .venv holds the other kind of install; run make clean first" >&2; exit 1; fi
	[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv
	echo "installing into .venv (minutes the first time)"
	if [ "$(EXTRA)" = gpu ]; then
	    $(PIP) install -e '.[gpu,demo,dev]'
	else
	    $(PIP) install --no-deps $(TORCH)
	    $(PIP) install --no-deps --require-hashes --only-binary :all: --no-binary $(FROM_SOURCE) -r requirements/cpu.txt
	    $(PIP) install --no-deps --no-build-isolation -e .
	    $(BIN)/python -c 'import torch' 2>/dev/null || { echo "error: this torch cannot be imported: it may be a build" \
	        "for CUDA; point PIP_EXTRA_INDEX_URL at PyTorch's index of CPU builds, then make clean install" >&2; exit 1; }
	fi
	touch $@

demo: install
	$(BIN)/python -m jobs.demo.make_assets --out demo_assets
	$(BIN)/python jobs/fuse.py --config jobs/configs/demo.yaml

miniature: install
	$(BIN)/python -m jobs.miniature.make_assets --out miniature_assets
	$(BIN)/python jobs/study.py --config jobs/configs/study_miniature.yaml
	# What the sources themselves know, once: their answers are those of the first seed's run.
	$(BIN)/python jobs/evaluate.py --config jobs/configs/miniature.yaml \
	    run.name=miniature-wrpo-seed-1 run.seed=1 evaluation.sources=all
	$(BIN)/python -m jobs.miniature.results

test: install lint
	$(BIN)/python -m pytest -q

test-slow: install
	$(BIN)/python -m pytest -q -m slow

test-browser: install
	@command -v chromedriver >/dev/null || \
	    { echo "error: chromedriver is missing (Debian: apt-get install chromium chromium-driver)" >&2; exit 1; }
	$(BIN)/python -m pytest -q tests/report

# Ten times the cases of the default suite and others each time; the seed that is printed makes them again.
FUZZ_FACTOR ?= 10
FUZZ_SEED ?= $(shell date +%s)

fuzz: install
	@echo "FUZZ_SEED=$(FUZZ_SEED)"
	WRPO_FUZZ=$(FUZZ_FACTOR) $(BIN)/python -m pytest -q tests/fuzz --hypothesis-seed=$(FUZZ_SEED)

chaos: install
	$(BIN)/python -m pytest -q -s -m chaos

# TRL has an environment of its own, since its versions are not ours.
TRL_STAMP := .venv-trl/.installed

$(TRL_STAMP): requirements/trl.txt | tools
	@rm -rf .venv-trl
	$(PYTHON) -m venv .venv-trl
	echo '*' > .venv-trl/.gitignore
	echo "installing TRL into .venv-trl"
	PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONWARNINGS=ignore .venv-trl/bin/python -m pip -qq install $(TORCH) -r requirements/trl.txt
	touch $@

# The site generator has an environment of its own, for the same reason.
DOCS_STAMP := .venv-docs/.installed

$(DOCS_STAMP): requirements/docs.txt | tools
	@rm -rf .venv-docs
	$(PYTHON) -m venv .venv-docs
	echo '*' > .venv-docs/.gitignore
	PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONWARNINGS=ignore .venv-docs/bin/python -m pip -qq install -r requirements/docs.txt
	touch $@

docs: $(DOCS_STAMP)
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --site-dir site

bench-train: install $(TRL_STAMP)
	$(BIN)/python -m benchmarks.train_step $(BENCH)

bench-sampling: install
	$(BIN)/python -m benchmarks.sampling_throughput $(BENCH)

bench-scaling: install
	$(BIN)/python -m benchmarks.scaling_sources $(BENCH)

bench-control-plane: install
	$(BIN)/python -m benchmarks.control_plane $(BENCH)

bench-prompt-memory: install
	$(BIN)/python -m benchmarks.prompt_memory $(BENCH)

bench-allocation: install
	$(BIN)/python -m benchmarks.allocation $(BENCH)

test-gpu: install
	$(BIN)/python -m pytest -q -m gpu

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/hadolint cluster/docker/*.Dockerfile

# uv is needed only here. Where torch builds lie in a folder, name it in UV_FIND_LINKS.
lock:
	@command -v $(UV) >/dev/null || { echo "error: uv is missing; pip install uv, or set UV=/path/to/uv" >&2; exit 1; }
	sed -n '/^#/p;/^[^#]/q' requirements/cpu.txt > requirements/.cpu.txt.new
	$(UV) pip compile --quiet pyproject.toml --extra cpu --extra demo --extra tensorboard --extra dev \
	    --generate-hashes --no-emit-package torch --index-strategy unsafe-best-match --no-header --no-annotate \
	    --python-version 3.11 --python-platform x86_64-manylinux_2_28 >> requirements/.cpu.txt.new
	mv requirements/.cpu.txt.new requirements/cpu.txt

# What the images install; after `make lock`, whose versions they keep.
lock-images:
	@UV=$(UV) requirements/lock_images.sh

# A service that cannot be reached is a failure too: then nothing was audited.
audit: install
	$(BIN)/python requirements/audit.py $(AUDIT)

image:
	@case "$(IMAGE)" in cpu|gpu) ;; *) echo "error: IMAGE must be cpu or gpu, not $(IMAGE)" >&2; exit 1 ;; esac
	$(BUILDER) build --file cluster/docker/$(IMAGE).Dockerfile --tag wrpo-ray:$(IMAGE) $(BUILD) .

clean:
	rm -rf .venv .venv-trl demo_assets build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache

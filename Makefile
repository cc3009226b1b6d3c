# What contributors and CI run. `make help` lists the targets; `make check` is all that CI asks.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
LOCK := requirements/dev.txt
REFERENCE ?=

.PHONY: help setup frameworks demo test vllm lint type arch bench docs check fmt lock
.DEFAULT_GOAL := help

help:  ## List the targets
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "%-10s %s\n", $$1, $$2}' Makefile

setup: .venv/dev.stamp  ## Make .venv with everything that working on the project needs

frameworks: .venvs/agents.stamp .venvs/bridges.stamp .venvs/crewai.stamp .venvs/litellm.stamp  ## Make the .venvs of the agent frameworks that tests drive

demo: .venv/demo.stamp  ## Train a small model with GRPO on this machine, and watch it learn
	$(BIN)/python examples/calculator/train.py

test: setup frameworks  ## Run every test; PYTEST="..." passes arguments on
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile $(PYTEST)

vllm: setup .venvs/vllm.stamp  ## Train on a real vLLM server (its CPU build, about 1.5 GB); minutes, best on a quiet machine
	$(BIN)/python -m pytest tests/slow/real_vllm.py -s $(PYTEST)

lint: setup  ## Check style, formatting, sizes, suppressions, and that tests mirror the package
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
	$(BIN)/python -m scripts.check_size && $(BIN)/python -m scripts.check_suppressions
	$(BIN)/python -m scripts.check_mirror

type: setup  ## Check types, strictly
	$(BIN)/pyright

arch: setup  ## Check the import layers and print the figures that the code is held to
	$(BIN)/lint-imports
	$(BIN)/python -m scripts.figures

docs: setup  ## Check that the pages exist, link to each other, and that their code runs
	$(BIN)/python -m pytest tests/docs

check: lint type arch docs test  ## Everything that CI runs

bench: setup  ## Measure; REFERENCE=<python of a venv with agentlightning==0.3.0> compares
	$(BIN)/python benchmarks/reference.py $(if $(REFERENCE),--reference $(REFERENCE))

fmt: setup  ## Fix what can be fixed, and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup  ## Pin what .venv holds now in requirements/dev.txt
	$(BIN)/python -m scripts.lock > $(LOCK).new
	mv $(LOCK).new $(LOCK)

# torch goes first, by itself: pip then takes the build that this machine is configured for.
.venv/torch.stamp: $(LOCK)
	@$(PYTHON) scripts/check_python.py
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) install --quiet --constraint $(LOCK) torch
	@touch $@

# Frameworks that pin other versions than ours, or than each other, live apart from us.
.venvs/%.stamp: requirements/%.txt .venv/dev.stamp
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venvs/$*
	$(BIN)/uv pip install --quiet --no-deps --python .venvs/$*/bin/python --requirements $<
	@touch $@

.venvs/vllm.stamp: requirements/vllm.txt .venv/dev.stamp
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python .venvs/vllm
	$(PIP) --python .venvs/vllm/bin/python install --quiet --no-deps --constraint $< torch
	$(BIN)/uv pip install --quiet --no-deps --python .venvs/vllm/bin/python --requirement $<
	@touch $@

.venv/dev.stamp: .venv/torch.stamp pyproject.toml
	$(PIP) install --quiet --constraint $(LOCK) --editable '.[rl,dev]'
	@touch $@

.venv/demo.stamp: .venv/torch.stamp pyproject.toml
	$(PIP) install --quiet --constraint $(LOCK) --editable '.[rl]' openai
	@touch $@

# Each target sets up what it needs, once. The work is done by tools/*.py.
PYTHON ?= python3
VENV_PYTHON := .venv/bin/python
BASE ?= main

.PHONY: bench compare history spread peers test lint build clean dev

bench: ## measure the quick preset on HEAD and the commit before, publish, print a table
	@$(call need_python)
	@$(PYTHON) -m tools.environment bench
	@$(VENV_PYTHON) -m tools.bench

history: REVISIONS ?= main
history: ## measure the commits that have no results yet, the widest gaps first, and publish: REVISIONS=v1..main
	@$(call need_python)
	@$(PYTHON) -m tools.environment bench
	@$(VENV_PYTHON) -m tools.measure quick $(REVISIONS)
	@.venv/bin/asv publish

spread: ## measure the quick preset ten times: how far each benchmark spreads, and what it can detect
	@$(call need_python)
	@$(PYTHON) -m tools.environment bench
	@$(VENV_PYTHON) -m tools.spread

peers: build ## measure this machine, our methods, PyTorch and kt-kernel: ARGS="--only S1", KT_PEER_PYTHON=...
	@$(VENV_PYTHON) -m tools.peers $(ARGS)

compare: dev ## review HEAD against another commit, BASE=main; docs/review.md has the exit codes
	@$(VENV_PYTHON) -m tools.review $(BASE)

# By file, since what a file sets up is set up once, and in the files' order: by the number of tests
# the longest ones, which have few, would come last.
test: build ## run every test, in two processes
	@$(VENV_PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: dev ## run pre-commit's hooks over all files
	@PATH="$(CURDIR)/.venv/bin:$$PATH" pre-commit run --all-files --show-diff-on-failure

build: dev ## build the extension in place
	@$(VENV_PYTHON) -m tools.build

dev:
	@$(call need_python)
	@$(PYTHON) -m tools.environment dev

clean: ## remove all that was built or set up; asv's results stay
	rm -rf .venv build dist *.egg-info kt_kernel/*.so .asv/env .asv/html \
		.pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

need_python = command -v $(PYTHON) > /dev/null || \
	{ echo "$(PYTHON) is missing: apt-get install python3 python3-venv"; exit 1; }

## make reproduce   set everything up, make report and page from the archive of runs, train some of
##                  these again as a check, say what held
## make test        set everything up, run all that CI runs
## make docs        build the API reference: build/api/index.html
## make lock        resolve pyproject.toml into requirements.lock again (needs uv)
##
## PRESET=paper     smoke, quick or paper (archived runs; what the archive lacks is trained)
## CHECK_MINUTES=5  how long archived runs, drawn at random, are trained again; 0 for no check
## CHECK_SEED=      of this draw; unset, a new one, which is printed
## CORES=all        how many cores the pipeline may use
## PYTHON=python3   the Python (3.11 or later) that .venv is made with
## TORCH_INDEX=     package index to take PyTorch from, or 'usual' for pip's own. Unset, it is chosen:
##                  with an NVIDIA driver the usual build, which on Linux has CUDA (several GB);
##                  without one the CPU build of TORCH_CPU_INDEX, where that can be reached.

PRESET ?= paper
CHECK_MINUTES ?= 5
CHECK_SEED ?=
CORES ?= all
PYTHON ?= python3
TORCH_INDEX ?=
TORCH_CPU_INDEX ?= https://download.pytorch.org/whl/cpu

ACTIVATE := . .venv/bin/activate &&

.PHONY: help reproduce test docs lock system
.DELETE_ON_ERROR:

help:
	@sed -n 's/^## \{0,1\}//p' Makefile

reproduce: .venv/complete
	$(ACTIVATE) snakemake --logger stalegrad --cores $(CORES) --config preset=$(PRESET) \
	    check_minutes=$(CHECK_MINUTES) $(if $(CHECK_SEED),check_seed=$(CHECK_SEED))
	@echo
	@$(ACTIVATE) stalegrad verdicts results/$(PRESET)/verdicts.csv

test: .venv/complete
	$(ACTIVATE) ruff check .
	$(ACTIVATE) ruff format --check .
	$(ACTIVATE) mypy
	$(ACTIVATE) snakefmt --check Snakefile workflow
	$(ACTIVATE) snakemake --lint
	$(ACTIVATE) pytest --numprocesses 3 --dist worksteal -m "not alone"
	$(ACTIVATE) pytest -m alone
	$(ACTIVATE) snakemake --cores 2 --config preset=smoke

docs: .venv/complete
	$(ACTIVATE) python tools/api_reference.py build/api
	@echo "Reference: build/api/index.html"
	@echo "With its search: python -m http.server --directory build/api"

# The project itself is built with the locked setuptools, so nothing unpinned is fetched. Most of
# PyTorch is never imported: what is, Python compiles then.
.venv/complete: requirements.lock requirements-torch.lock pyproject.toml | system
	$(PYTHON) -m venv .venv
	@echo "Installing the pinned packages into .venv (a few minutes the first time)."
	.venv/bin/python -m pip install --quiet --use-pep517 --require-hashes --requirement requirements.lock
	options=$$($(PYTHON) tools/torch_build.py requirements-torch.lock \
	    --cpu-index '$(TORCH_CPU_INDEX)' --index '$(TORCH_INDEX)') && \
	    .venv/bin/python -m pip install $$options --no-compile --requirement requirements-torch.lock
	.venv/bin/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

# Python, LaTeX and the C++ compiler: checked each time (it takes no time), before anything is run.
system:
	@tools/system_packages.sh $(PYTHON)

lock:
	uv pip compile pyproject.toml --all-extras --constraint requirements-torch.lock \
	    --universal --python-version 3.11 --generate-hashes \
	    --no-emit-package torch --no-emit-package torchvision --no-emit-package pip \
	    --no-header --no-annotate --quiet --output-file requirements.lock

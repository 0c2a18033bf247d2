# Every target makes its own virtual environment in .venv and reuses it.
PYTHON ?= python3
VENV := .venv
OLDEST := .venv-oldest
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DOCS := $(VENV)/.installed-docs
OUT ?= out/demo

.PHONY: demo test test-oldest test-all bench lint browser docs clean

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "vitlens needs Python 3.11 or newer, set PYTHON=")'
	@echo "installing vitlens and what it needs into $(VENV): minutes the first time, torch above all"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# The main job, offline: a page about one picture, one about the features that made its class, one about those of a
# dictionary, one about words, what the context carries over all pairs of pictures, and the paper's experiments over all.
demo: $(INSTALLED)
	@mkdir -p $(OUT)
	$(BIN)/vitlens open assets/demo/pictures/02_T-shirt_agreeing.png \
		assets/demo/pictures/02_T-shirt_conflicting.png --out $(OUT)/page.html
	$(BIN)/vitlens graph assets/demo/pictures/02_T-shirt_agreeing.png assets/demo/pictures/02_T-shirt_conflicting.png \
		--class T-shirt --n-nodes 400 --data assets/demo/pictures --out $(OUT)/graph.html
	$(BIN)/vitlens features --data assets/demo/pictures --shown 4 --n-runs 20 \
		--dictionary assets/demo/dictionaries/sae/blocks.3.hook_resid_post --out $(OUT)/features.html
	$(BIN)/python experiments/show_demo_words.py --out $(OUT)/words.html
	$(BIN)/python experiments/patch_context.py --out $(OUT)/patch_context
	$(BIN)/vitlens repair --out $(OUT)/repair.html
	$(BIN)/vitlens reproduce --n-steps 14 --out $(OUT)/paper
	@echo "open $(OUT)/page.html, $(OUT)/graph.html, $(OUT)/features.html, $(OUT)/words.html, $(OUT)/repair.html, $(OUT)/patch_context/page.html and $(OUT)/paper/report.html"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Pages are tested in Chromium, which is installed where that is allowed; elsewhere these tests skip and say so.
browser:
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } || \
		echo "no Chromium here and no right to install it: the browser tests will be skipped"

test: $(INSTALLED) lint browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

# The same suite on the lower bounds of pyproject.toml, in an environment of its own.
test-oldest: browser
	$(PYTHON) -m venv $(OLDEST)
	$(PYTHON) tests/lower_bounds.py pyproject.toml >$(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]' --constraint $(OLDEST)/constraints.txt
	OMP_NUM_THREADS=1 $(OLDEST)/bin/python -m pytest -n 2 --dist worksteal -m "not slow"

test-all: $(INSTALLED_DOCS) lint browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

bench: $(INSTALLED)
	$(BIN)/python experiments/benchmarks/forward.py
	$(BIN)/python experiments/benchmarks/report.py
	$(BIN)/python experiments/benchmarks/explorer.py
	$(BIN)/python experiments/benchmarks/features_page.py
	$(BIN)/python experiments/benchmarks/graph_page.py
	$(BIN)/python experiments/benchmarks/dataset_pass.py
	$(BIN)/python experiments/benchmarks/run_footprint.py
	$(BIN)/python experiments/benchmarks/patching.py
	$(BIN)/python experiments/benchmarks/attribution.py
	$(BIN)/python experiments/benchmarks/faithfulness.py
	$(BIN)/python experiments/benchmarks/dictionaries.py
	$(BIN)/python experiments/benchmarks/names.py
	$(BIN)/python experiments/benchmarks/attribution_graph.py

$(INSTALLED_DOCS): $(INSTALLED)
	@echo "installing the documentation's packages into $(VENV)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[docs]'
	@touch $@

# The site in out/docs, offline and strict: examples and notebooks run while it is built, and a broken link stops it.
docs: $(INSTALLED_DOCS)
	@echo "building the site: about three minutes on two cores"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file docs/mkdocs.yml
	@echo "open out/docs/index.html"

clean:
	rm -rf $(VENV) $(OLDEST) out build dist

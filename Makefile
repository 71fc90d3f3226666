# Two commands are enough: `make run` and `make lab`. Everything lives in .venv; nothing else is touched.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: install run gallery test lab bench notebooks grade lite lint clean

install: $(STAMP)

# Only pyproject.toml decides what is installed; editing it installs again.
$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "DualRS Lab needs Python 3.11 or newer; try: make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $(STAMP)

# Two notebooks at a time: small networks use one core better than two. RUN="…" passes options of `dualrs-lab run`.
run: $(STAMP)
	$(BIN)/dualrs-lab run --jobs 2 $(RUN)

# What ran, as pages: runs what is not done, then writes all pages anew. Open runs/index.html.
gallery: run
	$(BIN)/dualrs-lab gallery runs

lab: $(STAMP)
	$(BIN)/dualrs-lab lab

# How fast certification is on this machine, in under ten minutes on two cores, in runs/bench; BENCH="…" passes
# options of `python -m benchmarks.certify`, such as --data folder:PATH for your own images.
bench: $(STAMP) .venv/bench
	$(BIN)/python -m benchmarks.certify --short $(BENCH)

# The libraries that are compared with; where they cannot be installed, their arm is left out.
.venv/bench: pyproject.toml
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]' && touch $@

# Two processes check types, where mypy is new enough to know how.
lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	MYPY_NUM_WORKERS=2 $(BIN)/mypy

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# Executes the notebooks with their defaults and puts the normalised results back into notebooks/.
notebooks: $(STAMP)
	$(BIN)/dualrs-lab run --jobs 2 --update --force --out runs/update

# Runs the submissions below DIR and says which exercises are right; writes DIR/grades.csv.
grade: $(STAMP)
	$(BIN)/dualrs-lab grade $(DIR) --out $(DIR)/grades.csv

# A site of the lessons that a browser runs alone, in runs/site: any web server serves it. LITE="--solutions" keeps them.
lite: $(STAMP) .venv/lite
	rm -rf runs/site
	$(BIN)/dualrs-lab lite runs/site $(LITE)

.venv/lite: pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[lite]'
	@touch $@

clean:
	rm -rf runs build .mypy_cache .ruff_cache .pytest_cache

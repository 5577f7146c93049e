# make demo: set up, then in under five minutes: a first speedup, a search, text with its profile,
#   a check on other prompts; at the end what was found, how sure that is, and what to do next.
# make test: set up, run the tests that take a few seconds at most (under ten minutes).
# make test-slow: run the others: distributions of sampled tokens, searches, signals.
# make reference: write the generated pages of docs/reference/.
# make models: try every type of model that transformers has, and write docs/models.md (slow).
# make real: set up, fetch a real pretrained model (98 MB), search, compare and bench on it.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEV := accelerate gguf jinja2 jsonschema matplotlib mypy 'psycopg[binary]' pytest pytest-timeout pytest-xdist ruff types-PyYAML
# Two threads in everything that is timed, so that figures can be compared.
export SKIPOPT_THREADS ?= 2

.PHONY: demo real models reference test test-slow lint types check setup clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e . $(DEV)
	touch $@

demo: setup
	@echo "1/4 a first speedup, without a search"
	$(BIN)/skipopt run builtin --method suffix --compare --max-new-tokens 96 --prompt-file examples/prompt.py
	@echo "2/4 a search for what is fastest on this machine"
	$(BIN)/skipopt search builtin --output demo-profile.yaml --overwrite --timeout 100
	@echo "3/4 text with what was found"
	$(BIN)/skipopt run builtin --profile demo-profile.yaml --compare --max-new-tokens 96 \
		--prompt-file examples/prompt.py
	@echo "4/4 the speedup on prompts that the search has not seen"
	-$(BIN)/skipopt check builtin --profile demo-profile.yaml --timeout 60 --json > demo-check.json
	@$(BIN)/python -m tools.demo_summary demo-profile.yaml demo-check.json

REAL := .real/SmolLM2-135M-Instruct.Q4_1.gguf

real: setup
	$(BIN)/python -m tools.fetch_smollm2 .real
	$(BIN)/skipopt search $(REAL) --output .real/profile.yaml --overwrite --timeout 120
	$(BIN)/skipopt run $(REAL) --profile .real/profile.yaml --compare --chat --max-new-tokens 96 \
		--prompt "Explain in a few sentences why the sky is blue."
	$(BIN)/skipopt bench $(REAL) --profile .real/profile.yaml --methods plain,profile,suffix \
		--num-prompts 8 --repeats 2

reference: setup
	$(BIN)/python -m tools.make_reference

models: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m tools.make_models_page

# One process per core with one thread each: faster than one process with all threads. A process
# that has no tests left takes some of another's; the tests of a file mostly stay together, so
# that their fixtures are made once.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal

test: setup
	$(PYTEST) -m "not slow"

test-slow: setup
	$(PYTEST) -m slow

lint: setup
	$(BIN)/ruff check skipopt tests benchmarks tools hatch_build.py
	$(BIN)/ruff format --check skipopt tests benchmarks tools hatch_build.py

types: setup
	$(BIN)/mypy

check: setup
	$(BIN)/skipopt check builtin --profile builtin --min-speedup 1.0 --baseline results/check.json --tolerance 5% --on-inconclusive warn

clean:
	rm -rf $(VENV) demo-profile.yaml demo-profile.yaml.journal demo-check.json

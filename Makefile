PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help venv demo demo-harmed test soak check bench bench-store bench-control bench-report bench-engine bench-rules train clean

help:  ## Show what there is to make
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,dev,s3]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps zennit # the tests do without the torchvision it wants
	touch $@

venv: $(BIN)/.installed  ## Make .venv with pinned dependencies

demo: venv  ## Audit 10,000 handwritten digits and leave a report in audits/
	$(BIN)/clear-audit demo --store audits

demo-harmed: demo  ## Audit the same digits with harmed weights, and compare: ends with exit code 1, for a gate fails
	$(BIN)/python -m flows.demo.harm audits/harmed/allcnn.safetensors
	-$(BIN)/clear-audit run flows/demo/demo.toml --store audits --set model.weights=$(CURDIR)/audits/harmed/allcnn.safetensors
	$(BIN)/clear-audit compare --store audits

check: venv  ## Lint and type-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: venv check  ## Run every test, after lint and types
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder tests/flows tests # whole processes first: they take longest

soak: venv  ## Run the tests that take long, guided fuzzing where atheris can be installed
	-$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[fuzz]'
	$(BIN)/pytest -m soak

bench: bench-store  ## Measure speed and memory, and what bench-store does (minutes)
	$(BIN)/python tests/bench/bench_pipeline.py

bench-store: venv  ## Measure commits, resumption, queries over 10 million rows, images: make bench-store IMAGENET=folder-with-labels.csv
	$(if $(IMAGENET),$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]')
	$(BIN)/python -m tests.bench.bench_store $(if $(IMAGENET),--imagenet $(IMAGENET)) $(OPTIONS)

bench-control: venv  ## Measure what the bookkeeping of up to 20,000 shards costs (half an hour)
	$(BIN)/python -m tests.bench.bench_control

bench-report: venv  ## Measure size and speed of reports of large runs (a minute)
	$(BIN)/python -m tests.bench.bench_report

bench-engine: venv  ## Measure the engine against its peers: make bench-engine IMAGENET=folder-with-labels.csv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python tests/bench/bench_engine.py $(if $(IMAGENET),--imagenet $(IMAGENET)) $(OPTIONS)

bench-rules: venv  ## Measure what each rule's maps show: make bench-rules IMAGENET=folder-with-labels.csv
	$(if $(IMAGENET),$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[bench]')
	$(BIN)/python -m tests.bench.bench_rules $(if $(IMAGENET),--imagenet $(IMAGENET))

train: venv  ## Train the demo's model again: make train MNIST=folder-of-the-training-files
	$(BIN)/python -m flows.demo.train $(MNIST)

clean:  ## Remove what make made
	rm -rf $(VENV) audits build *.egg-info

# make demo: train, evaluate, predict from nothing.   make test: the whole test suite.   Both set up .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN = .venv/bin
RUN = runs/demo

.PHONY: demo test check bench ui clean
.DELETE_ON_ERROR:

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: .venv/.installed
	@rm -rf $(RUN) predictions/demo
	$(BIN)/python -m monai.bundle run training --config_file bundles/unet/configs/train.json --run_name demo
	$(BIN)/python -m monai.bundle run evaluating --config_file "['$(RUN)/configs/train.json','$(RUN)/configs/evaluate.json']"
	$(BIN)/python -m monai.bundle run inference --config_file $(RUN)/configs/inference.json \
	    --input_dir data/cells/images/test --output_dir predictions/demo
	@$(BIN)/python -m pipeline summary $(RUN) predictions/demo

test: .venv/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/.installed
	@for file in benchmarks/*.py; do $(BIN)/python $$file --output benchmarks/results.json || exit 1; done

ui: .venv/.installed
	$(BIN)/mlflow ui

clean:
	rm -rf .venv runs predictions data mlruns mlflow.db

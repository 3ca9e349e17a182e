# make demo: train, evaluate, predict from nothing.   make test: the whole test suite.   Both set up .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN = .venv/bin
RUN := demo-$(shell date +%Y%m%d-%H%M%S)

# Threads that wait by spinning are ten times slower as soon as another program wants a core.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test check audit bench ui clean
.DELETE_ON_ERROR:

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

demo: .venv/.installed
	$(BIN)/python -m monai.bundle run training --config_file bundles/unet/configs/train.json --run_name $(RUN)
	$(BIN)/python -m monai.bundle run evaluating \
	    --config_file "['runs/$(RUN)/configs/train.json','runs/$(RUN)/configs/evaluate.json']"
	$(BIN)/python -m monai.bundle run inference --config_file runs/$(RUN)/configs/inference.json \
	    --input_dir data/cells/images/test --output_dir predictions/$(RUN)
	$(BIN)/python -m pipeline predict bundles/unet_nuclei data/cells/images/test predictions/$(RUN)-nuclei --pictures
	@echo
	@echo "reports:     runs/$(RUN)/evaluation/validation/report.html, runs/$(RUN)/evaluation/test/report.html"
	@echo "scores:      runs/$(RUN)/evaluation/test/scores.json, cases.csv"
	@echo "label maps:  predictions/$(RUN)/"
	@echo "the model:   runs/$(RUN)/, a bundle of its own"
	@echo "a picture:   predictions/$(RUN)-nuclei/*_picture.png: the same fields by weights that were trained on real nuclei"
	@echo "all runs:    make ui, then http://127.0.0.1:5000"

test: .venv/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# A report, no gate. OSV's service: PyPI's own passes packages that it cannot find.
audit: .venv/.installed
	@rm -f audit.md; $(BIN)/python -m pip install --quiet pip-audit >/dev/null 2>&1; \
	if $(BIN)/python -m pip_audit --vulnerability-service osv --requirement constraints.txt --no-deps --disable-pip \
	    --progress-spinner off --format markdown --output audit.md 2>audit.log || test -s audit.md; \
	then tail -n 1 audit.log; cat audit.md 2>/dev/null || true; \
	else echo "not audited: OSV cannot be reached, or pip-audit cannot be installed" | tee audit.md; fi

# The ablation and the comparison with others (versus.py) take hours and data of their own.
NO_CLAIM = benchmarks/measure.py benchmarks/results_page.py benchmarks/ablation.py benchmarks/fleet.py \
    $(wildcard benchmarks/versus*.py)

bench: .venv/.installed
	@for file in $(filter-out $(NO_CLAIM),$(wildcard benchmarks/*.py)); do \
	    echo "$$file"; $(BIN)/python $$file --output benchmarks/results.json || exit 1; \
	done
	$(BIN)/python benchmarks/results_page.py

ui: .venv/.installed
	$(BIN)/mlflow ui

clean:
	rm -rf .venv runs predictions data mlruns mlflow.db

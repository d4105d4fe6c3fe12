# make setup   .venv with everything in requirements*.txt, and the system packages that are missing
# make demo    the same, then all five stages on CarRacing with small budgets
# make demo-nocturne   the same in traffic: synthetic scenes to a driving clone
# make reproduce   the same, then the scores of docs/results/carracing.md from nothing: many hours; run again, it resumes
# make extra   setup, and the packages of --ray, --track mlflow and --track wandb
# make test    the same, then lint and the tests
# make lint    ruff (rules and layout), mypy
# make coverage   the tests, and which lines they reach, also in processes that they start
# make soak    500 lives of a dataset and a run, then half an hour each of recording, training, scoring, drawing and a
#              lesson: docs/soak.md
# make docs    setup, and docs/ as a site in build/site; make docs-serve shows it on http://127.0.0.1:8000 while it is edited
#
# GPU=1                               for `make reproduce` on a machine with CUDA: more data, more generations
# PYTHON=/path/to/python3.11          another interpreter
# TORCH_INDEX=https://download.pytorch.org/whl/cpu   torch for machines without a GPU: a fifth of the download

PYTHON ?= python3.11
TORCH_INDEX ?=
DONE := .venv/.complete
EXTRA := .venv/.extra
BROWSER := .venv/.browser

.PHONY: setup extra demo demo-nocturne reproduce soak test coverage lint docs docs-serve

setup: $(DONE)

$(DONE): requirements.txt requirements-dev.txt pyproject.toml scripts/setup.sh
	@PYTHON="$(PYTHON)" TORCH_INDEX="$(TORCH_INDEX)" bash scripts/setup.sh $@

extra: $(EXTRA)

$(EXTRA): requirements-extra.txt $(DONE)
	@echo "installing requirements-extra.txt"
	@flock requirements-extra.txt .venv/bin/python -m pip --disable-pip-version-check -qq install -r requirements.txt -r requirements-extra.txt
	@touch $@

demo: setup
	.venv/bin/python -m scripts.demo carracing

demo-nocturne: setup
	.venv/bin/python -m scripts.demo nocturne

reproduce: setup
	.venv/bin/python -m scripts.reproduce $(if $(GPU),--gpu)

soak: setup
	.venv/bin/python -m pytest tests/test_state_machine.py --hypothesis-profile soak --timeout 0
	.venv/bin/python -m benchmarks.soak

$(BROWSER): scripts/setup.sh $(DONE)
	@PYTHON="$(PYTHON)" bash scripts/setup.sh $@ browser

test: lint extra $(BROWSER)
	.venv/bin/python -m pytest -n 2 --dist loadfile

coverage: extra $(BROWSER)
	.venv/bin/python -m pytest -n 2 --dist loadfile --cov --cov-report term:skip-covered --cov-report html:build/coverage/html

lint: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	@mkdir -p .venv/src && ln -sfn "$(CURDIR)" .venv/src/dreamdrive
	.venv/bin/python -m mypy

docs docs-serve: export NO_MKDOCS_2_WARNING = 1  # news of its makers
docs: setup
	.venv/bin/mkdocs build --strict

docs-serve: setup
	.venv/bin/mkdocs serve

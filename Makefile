# Everything below needs Python 3.10 or newer with venv, and nothing else installed beforehand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
COMFYUI := build/comfyui
PYTEST := PENNYREEL_TEST_COMFYUI=$(CURDIR)/$(COMFYUI) $(BIN)/python -m pytest
# A file's tests stay together: its servers are started once. They wait more than they compute, so
# there is one process more than there are cores; each of the long ones keeps a core busy.
MORE := $(shell $(PYTHON) -c "import os; print((os.cpu_count() or 1) + 1)")
FAST := -n $(MORE) --dist loadfile
LONG := -n logical --dist loadfile

.PHONY: demo test fast check lint image-test postgres clean

demo: $(VENV)/.dev  ## Install everything and render a video through the whole path.
	$(BIN)/pennyreel demo

test: $(VENV)/.test lint fast $(COMFYUI)/install.json  ## All that must hold, in under 15 minutes.
	$(PYTEST) tests -m "real and not long"

fast: $(VENV)/.test postgres
	$(PYTEST) tests -m "not real and not long" $(FAST) --durations=25 --cov \
	  --cov-report=term:skip-covered

check: $(VENV)/.test $(COMFYUI)/install.json postgres  ## The long proofs, in under 45 minutes.
	$(PYTEST) tests/e2e/test_bench.py -m long
	$(PYTEST) tests -m "long and not image" --ignore tests/e2e/test_bench.py $(LONG)
	$(MAKE) image-test

image-test: $(VENV)/.test  ## Build the image and have it serve jobs: as root, on Debian. 7 minutes.
	command -v buildah && command -v debootstrap || { apt-get update && \
	  apt-get install --yes --no-install-recommends buildah debootstrap; }
	$(PYTEST) tests/image -m image

postgres:  ## The ledger's tests need its programs; they start a server of their own.
	ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || command -v initdb >/dev/null || { \
	  apt-get update && apt-get install --yes --no-install-recommends postgresql-common && \
	  sed -ri 's/#?(create_main_cluster) .*$$/\1 = false/' /etc/postgresql-common/createcluster.conf && \
	  apt-get install --yes --no-install-recommends postgresql; }

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

$(VENV)/.dev: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

$(VENV)/.test: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@ $(VENV)/.dev

$(COMFYUI)/install.json: worker/pennyreel_comfy/install/lock.toml | $(VENV)/.test
	$(BIN)/python -m pennyreel_comfy.install $(COMFYUI)
	touch $@

clean:
	rm -rf $(VENV) build dist

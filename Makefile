# What a newcomer types. DATABASE_URL and the other variables of docs/settings.md are obeyed.

PYTHON ?= python3
# The newest that we support, which pyenv may have put aside; with it comes the newest Django.
NEWEST_PYTHON ?= $(lastword python3.13 $(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python))
VENV := .venv
PIP := $(VENV)/bin/pip --disable-pip-version-check install --quiet
MANAGE := $(VENV)/bin/python manage.py
MKDOCS := NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs
# Tests that start whole programs wait more than they work, so four workers suit two cores. Those of
# a file share what they start, so one worker has them all; the longest files, of whole programs, come
# first.
PYTEST := $(VENV)/bin/pytest --numprocesses=4 --dist=loadfile --no-loadscope-reorder

# Set when DATABASE_URL names a PostgreSQL.
POSTGRES := $(filter postgres% pgsql%,$(firstword $(subst :, ,$(value DATABASE_URL))))

.DEFAULT_GOAL := help
.PHONY: help install run test test-newest check bench docs reference clean
.SILENT:

help: ## list what can be made
	awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-14s %s\n", $$1, $$2 }' Makefile

install: $(VENV)/installed $(if $(POSTGRES),$(VENV)/installed-postgres) ## make .venv and install what the program needs

run: install ## start the receiver, workers, relay, catcher and admin in the foreground
	$(MANAGE) migrate --verbosity 0
	$(MANAGE) makeadmin
	exec $(MANAGE) runmail

test: $(VENV)/installed-test ## test on SQLite, then on PostgreSQL
	$(PYTEST)
	$(PYTEST) --database=postgresql

test-newest: ## the same on the newest Python and Django that we support, where that Python is
	if $(NEWEST_PYTHON) -c '' 2>/dev/null; then \
		$(MAKE) --no-print-directory test VENV=$(VENV)-newest PYTHON=$(NEWEST_PYTHON); \
	else \
		echo "No $(NEWEST_PYTHON) here. Name one: make test-newest NEWEST_PYTHON=/path/of/python"; \
	fi

check: $(VENV)/installed-test $(VENV)/installed-dev $(VENV)/installed-docs ## check settings, migrations, style, types, layers and docs
	$(MANAGE) check --fail-level WARNING
	DEBUG=0 SECRET_KEY=$$($(VENV)/bin/python -c 'import secrets; print(secrets.token_hex(40))') \
		MAIL_HOSTS=example.com ALLOWED_HOSTS=example.com \
		$(MANAGE) check --deploy --fail-level WARNING
	$(MANAGE) makemigrations --check --dry-run
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest --quiet tests/unit/test_layers.py
	$(MKDOCS) build --strict

bench: install ## measure messages per second
	$(VENV)/bin/python -m benchmarks

docs: $(VENV)/installed-docs reference ## build the documentation as a site in site/
	$(MKDOCS) build --strict

reference: install ## write anew what the documentation takes from the code
	$(VENV)/bin/python -m docs.reference

clean: ## remove .venv, .venv-newest and what the tools keep; run/ stays
	rm -rf $(VENV) $(VENV)-newest site .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info

# Each stamp says that pip has installed a set of requirements as they stand now.
$(VENV)/bin/pip:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: requirements.txt | $(VENV)/bin/pip
	echo "Installing into $(VENV) …"
	$(PIP) --requirement requirements.txt
	touch $@

$(VENV)/installed-%: requirements.txt pyproject.toml | $(VENV)/bin/pip
	echo "Adding what “$*” needs …"
	$(PIP) --editable '.[$*]'
	touch $@

# The two commands of the README are `make up` and `make test`; the rest serves them.
SHELL := /bin/bash
PY := .venv/bin/python
CACHE := $(or $(G8NODE_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/g8node)
# root's pyc files stay out of a user's clone
SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo -E PYTHONPYCACHEPREFIX=/var/cache/g8node-pyc)
export G8NODE_CACHE := $(CACHE)

.PHONY: help up down test check unit-313 bench soak fuzz image deps format docs clean

help:
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

up: deps image ## boot a node in QEMU that runs nginx from an flist; prints how to go on
	@$(SUDO) $(PY) -m g8tools.up start

down: ## stop what `make up` started
	@$(SUDO) $(PY) -m g8tools.up stop

test: deps image ## everything that can be tested here, QEMU boots included
	@$(SUDO) $(PY) -m pytest -q tests
	@$(SUDO) initramfs-build/unit-on-313.sh -q tests/unit

check: deps ## format, lint, types, layers, unit tests: under a minute
	@$(PY) -m pytest -q tests/test_repository.py tests/unit

unit-313: deps ## the unit tests on the image's Python
	@$(SUDO) initramfs-build/unit-on-313.sh -q tests/unit

bench: deps image ## measure against named peers into build/bench.json; ONLY='regex' picks rows
	@$(SUDO) $(PY) -m tests.bench $(if $(ONLY),--only '$(ONLY)')

soak: deps image ## what takes long
	@$(SUDO) $(PY) -m pytest -q -m soak tests

fuzz: deps ## a million mutated inputs for each decoder of what comes from outside; INPUTS=n for others
	@G8NODE_FUZZ_INPUTS=$(or $(INPUTS),1000000) nice $(PY) -m pytest -q --durations=0 tests/fuzz

image: deps ## build/vmlinuz and build/initramfs.zst
	@$(SUDO) initramfs-build/build.sh

deps:
	@tools/setup.sh

format: deps
	@.venv/bin/ruff format -q . && .venv/bin/ruff check -q --fix .

docs: deps ## docs/commands.md from the commands themselves
	@$(PY) -m g8tools.docgen docs/commands.md

clean: down
	rm -rf build .venv *.egg-info

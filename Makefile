# Two commands are all a newcomer needs: `make demo` and `make test`. What they need is set up first, once.
#
#   make setup                 environment, packages, ROS 2 interfaces; leaves .venv/bin/streampetr
#   make demo                  CHECKPOINT=file  MODEL=r50_704_428q  DATA=nuscenes-format root  OUT=out/demo
#   make test                  ARGS='tests/core -q'
#   make bench lint clean      clean keeps .venv; clean-all does not
#
#   PYTHON=python3.12          which Python makes .venv (3.10 to 3.13; default: the first found that can)
#   EXTRAS=view,export         more extras of pyproject.toml
#
# A sourced ROS 2 distribution (ROS_DISTRO is set) is used as it is; otherwise ROS 2 comes as wheels.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.ONESHELL:
.DEFAULT_GOAL := help
.PHONY: help setup demo test bench lint clean clean-all

VENV := .venv
BIN := $(VENV)/bin
OUT ?= out/demo
ROS := $(if $(and $(ROS_DISTRO),$(AMENT_PREFIX_PATH)),$(ROS_DISTRO),wheels)
comma := ,
EXTRA_LIST := $(if $(filter wheels,$(ROS)),ros,distribution),dev$(if $(EXTRAS),$(comma)$(EXTRAS))

# A stamp is touched when its step is complete: an interrupted set-up goes on where it stopped. The names carry what
# the step depends on beside files, so that another distribution or other extras do their step again.
CREATED := $(VENV)/.created-$(ROS)
INSTALLED := $(VENV)/.installed-$(ROS)-$(subst $(comma),+,$(EXTRA_LIST))
BUILT := ros2_ws/install/streampetr_build.json
INTERFACES := $(wildcard ros2_ws/*.py ros2_ws/src/*/package.xml ros2_ws/src/*/setup.* ros2_ws/src/*/CMakeLists.txt \
	ros2_ws/src/*/msg/*.msg ros2_ws/src/*/config/* launch/*.* ros2_ws/backfill/*/*.* ros2_ws/backfill/*/*/*.*)

ifneq ($(origin PYTHON),undefined)
ifneq ($(wildcard $(CREATED)),)
wanted := $(shell $(PYTHON) -c 'import sys; print(*sys.version_info[:2])' 2>/dev/null)
present := $(shell $(BIN)/python -c 'import sys; print(*sys.version_info[:2])' 2>/dev/null)
ifneq ($(wanted),$(present))
$(error PYTHON=$(PYTHON) is Python '$(wanted)' but $(VENV) has '$(present)'; run `make clean-all` to begin anew)
endif
endif
endif

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' $(firstword $(MAKEFILE_LIST))

setup: $(BUILT)

demo: setup
	$(BIN)/streampetr demo --out '$(OUT)' $(if $(DATA),--data '$(DATA)') $(if $(MODEL),--model '$(MODEL)') \
	    $(if $(CHECKPOINT),--checkpoint '$(CHECKPOINT)') $(ARGS)

test: setup
	$(BIN)/python -m pytest $(ARGS)

bench: setup
	$(BIN)/streampetr bench $(ARGS)

lint: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

clean:
	rm -rf out ros2_ws/build ros2_ws/install ros2_ws/log .pytest_cache .ruff_cache

clean-all: clean
	rm -rf $(VENV) $(VENV).old

# 1. the environment, for the first Python that will do. One made for another distribution is begun anew.
$(CREATED):
	@chosen=; reason='Python 3.10 to 3.13 not found; install one, or say PYTHON=/path/to/python3.11'
	for python in $(or $(PYTHON),$(if $(filter wheels,$(ROS)),python3.11 python3.12 python3.10 python3.13) python3); do
	    version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || continue
	    case $$version in 3.10|3.11|3.12|3.13) ;; *) reason="$$python is Python $$version; 3.10 to 3.13 will do"; continue;; esac
	    if ! $$python -c 'import venv, ensurepip' 2>/dev/null; then
	        reason="$$python cannot make environments; sudo apt-get install python$$version-venv"; continue
	    fi
	    chosen=$$python; break
	done
	if [ -z "$$chosen" ]; then echo "set-up: $$reason" >&2; exit 1; fi
	echo "set-up: $(VENV) with Python $$version, ROS 2 from $(ROS)"
	rm -rf $(VENV).old
	# moved, not emptied: an interruption leaves no mixture of two
	if ls $(VENV)/.created-* >/dev/null 2>&1; then mv $(VENV) $(VENV).old; rm -rf $(VENV).old; fi
	$$chosen -m venv $(VENV)
	touch $@

# 2. the packages. The devkit's numpy < 2 does not exist for Python 3.13, where it runs with numpy 2 all the same.
$(INSTALLED): $(CREATED) pyproject.toml
	@echo 'set-up: packages [$(EXTRA_LIST)] (several minutes the first time)'
	$(BIN)/python -m pip install --disable-pip-version-check $(if $(CI),--quiet) --editable '.[$(EXTRA_LIST)]'
	if $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 13))'; then
	    $(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps nuscenes-devkit==1.2.0
	fi
	rm -f $(VENV)/.installed-*
	touch $@

# 3. the interfaces, and from the backfill what the distribution lacks. The record is written last.
$(BUILT): $(INSTALLED) $(INTERFACES)
	@$(BIN)/python ros2_ws/build.py

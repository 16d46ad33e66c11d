# `make demo` and `make test` do all the set-up themselves; the second time they find it done.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO := outputs/demo

.PHONY: demo test test-slow check bench chaos clean

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "texdiff needs Python 3.11 or newer: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/python -m texdiff.demo.make $(DEMO)/meshes
	$(BIN)/texdiff prepare $(DEMO)/meshes --output $(DEMO)/dataset --validation_fraction 0.15
	$(BIN)/texdiff train --config configs/demo.yaml
	$(BIN)/texdiff generate --model nano --lora $(DEMO)/run --mesh $(DEMO)/meshes/crate_000.glb \
		--prompt 'yellow hazard stripes crate' --guidance_scale 3 --output $(DEMO)/crate.glb
	$(BIN)/texdiff generate --model nano --lora $(DEMO)/run --mesh $(DEMO)/meshes/barrel_001/barrel_001.obj \
		--prompt 'blue hazard stripes barrel' --guidance_scale 3 --output $(DEMO)/barrel.glb
	$(BIN)/texdiff compare $(DEMO)/run $(DEMO)/meshes --guidance_scale 3 \
		--output $(DEMO)/before_after.png
	@echo
	@echo "Look at  $(DEMO)/dataset/audit.html     the textures, their masks, and what was found about them"
	@echo "         $(DEMO)/run/first_batch.png    what the model saw, and what of it counted"
	@echo "         $(DEMO)/run/report.html        curves, atlases drawn while training, and their meshes to turn"
	@echo "         $(DEMO)/before_after.png       meshes with the base's textures and with the LoRA's"
	@echo "         $(DEMO)/*.glb                  meshes with the textures that the LoRA gives"

test: $(READY)
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/test_house.py

# A quarter of an hour; BENCH=nano takes three minutes of it, BENCH=sd15 the rest.
bench: $(READY)
ifndef BENCH
	$(BIN)/python -m benchmarks.coverage
endif
	$(BIN)/python -m benchmarks.step $(BENCH)

# Half an hour: 100 kills of one run, and 1,000 damaged inputs through everything that reads.
chaos: $(READY)
	$(BIN)/python -m benchmarks.chaos --kills 100
	$(BIN)/python -m pytest -m slow tests/fuzz

clean:
	rm -rf outputs build *.egg-info

# The two commands of the README, and the few a contributor wants. Everything happens in .venv.

.DEFAULT_GOAL := demo
.PHONY: demo test quick lint setup setup-dev clean

# Sets up everything and runs the main job: our digits network onto a Cortex-M4.
demo: setup
	.venv/bin/edgekit deploy models/digits.tflite --target cortex-m4 \
	    --data models/digits.npz:calibration_x --val models/digits.npz:val_x,val_y \
	    -o build/digits-cortex-m4

# Sets up everything and passes all tests.
test: setup-dev
	.venv/bin/python -m pytest -q -n 2 --dist worksteal

# What a contributor runs: everything but the slow tests.
quick: setup-dev
	.venv/bin/python -m pytest -q -n 2 --dist worksteal -m "not slow"

lint: setup-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy edgekit targets

setup:
	@sh scripts/setup.sh run

setup-dev:
	@sh scripts/setup.sh dev

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

.PHONY: lint format types test test-nojit bench

lint:
	ruff check .
	ruff format --check .

format:
	ruff check --fix .
	ruff format .

types:
	mypy

test:
	python -m pytest -q

# kernels as plain Python: the path that needs no compiler at all
test-nojit:
	NUMBA_DISABLE_JIT=1 python -m pytest -q tests/run/kernels -k plain

bench:
	@ls benchmarks/*.py | xargs -n1 echo python

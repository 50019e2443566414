.PHONY: lint format types test test-nojit clients docs bench

lint:
	ruff check .
	ruff format --check .

format:
	ruff check --fix .
	ruff format .

types:
	mypy

test:
	python -m tests.kernels
	python -m pytest -q -n auto

# kernels as plain Python: the path that needs no compiler at all
test-nojit:
	NUMBA_DISABLE_JIT=1 python -m pytest -q tests/run/kernels -k plain

# client libraries against a server: needs `pip install -e '.[test,clients]'`
clients:
	GGUF_HUB_CLIENTS=1 python -m pytest -q -W ignore tests/clients

docs:
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet --site-dir build/site

# figures of the built-in model; each file of benchmarks/ compares with a peer and prints its usage
bench:
	gguf-hub bench gguf_hub/data/tiny-mixtral.f16.gguf -p 256 -n 64 -r 5

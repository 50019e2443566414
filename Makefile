.PHONY: lint format types test test-nojit clients page docs bench regression

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
	python -m pytest -q -n auto --all

# kernels as plain Python: the path that needs no compiler at all
test-nojit:
	NUMBA_DISABLE_JIT=1 python -m pytest -q tests/run/kernels -k plain

# client libraries against a server: needs `pip install -e '.[test,clients]'`, and npm for JavaScript's.
# Packages that require llama-cpp-python are installed without it: `llama_cpp` is gguf-hub's. The rest
# is driven by the same command in an environment with '.[test,clients-older]'.
clients:
	python -m pip install --quiet --no-deps llama-cpp-haystack llama-index-llms-llama-cpp llm-gguf
	! command -v npm >/dev/null || npm install --silent --no-fund --no-audit --prefix build/clients \
		@ai-sdk/openai @ai-sdk/openai-compatible @anthropic-ai/sdk @langchain/openai ai ollama openai zod
	GGUF_HUB_CLIENTS=1 python -m pytest -q -W ignore tests/clients

# the web page in a browser: needs chromium, chromedriver (`apt-get install chromium chromium-driver`)
# and `pip install -e '.[test,browser]'`
page:
	python -m pytest -q -rs tests/api/server/page

docs:
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet --site-dir build/site

# tables of docs/speed.md: an hour or two, nothing else running; each other file of benchmarks/
# compares with a peer, too, and prints its usage
bench:
	python benchmarks/all.py

# this checkout against another commit, in turns: make regression AGAINST=v0.1.0
regression:
	python benchmarks/regression.py --against $(AGAINST)

"""Each architecture's tiny model, as people use a file: every command and API takes it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from gguf_hub.api.llama import Llama
from tests.arch_models import letters, write_arch_model
from tests.arch_recipes import RECIPES

Cli = Callable[..., tuple[int, str, str]]
ONE_OF_EACH = list({RECIPES[name].arch: name for name in reversed(RECIPES)}.values())
N_CTX = 64
GREEDY = {"prompt": "the cat slept", "max_tokens": 8, "temperature": 0}


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_commands_take_it(name: str, tmp_path: Path, gguf_hub: Cli) -> None:
    def report(*args: object) -> str:
        code, out, err = gguf_hub(*args, "--json")
        assert code == 0, err
        return out

    model = write_arch_model(tmp_path / "model.gguf", name, vocabulary=letters())
    text = tmp_path / "text.txt"
    text.write_text("the cat slept while the river turned a wheel. " * 2)
    assert json.loads(report("inspect", model))["architecture"] == RECIPES[name].arch
    assert json.loads(report("pick", model, "--ram", "8GB"))["recommended"]
    facts = json.loads(report("perplexity", model, "--text", text, "-c", 32, "-t", 1))
    assert math.isfinite(facts["perplexity"]["value"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_every_surface_writes_the_same(
    name: str, tmp_path: Path, gguf_hub: Cli, kernels: None
) -> None:
    model = write_arch_model(tmp_path / "model.gguf", name, vocabulary=letters())
    with Llama(model, n_ctx=N_CTX, n_threads=1, verbose=False) as llm:
        text = llm(**GREEDY)["choices"][0]["text"]
    prompt, n_tokens, _ = GREEDY.values()
    flags = ("-p", prompt, "-n", n_tokens, "--temp", 0, "-c", N_CTX, "-t", 1)
    code, out, err = gguf_hub("run", model, *flags)
    assert code == 0, err
    assert out == f"{prompt}{text}\n"
    pytest.importorskip("fastapi", reason="fastapi is not installed")
    from tests.api.server.running import Running

    with ExitStack() as stack:
        server = Running(model, stack, {}, n_ctx=N_CTX, n_slots=2)
        answer = server.http.post("/v1/completions", json=GREEDY).json()
    assert answer["choices"][0]["text"] == text

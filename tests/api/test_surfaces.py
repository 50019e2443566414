"""One text, five surfaces: command line, ``Llama``, its stream, the server, LangChain.

And what the model card tells people to type, as printed there.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.api.llama import Llama
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.tokenizer import load_tokenizer

Cli = Callable[..., tuple[int, str, str]]
PROMPT = "Once upon a time"
SURFACES = ("command line", "Llama", "stream", "server", "server, streamed", "LangChain")
REFERENCE = Path(__file__).parent / "llama" / "llama_cpp_python.json"


@pytest.fixture(scope="module")
def stories(data: Path) -> Path:
    return data / "models" / "stories260K.f32.gguf"


@pytest.fixture(scope="module")
def client(stories: Path, kernels: None) -> Iterator[Llama]:
    with Llama(stories, n_ctx=256) as model:
        yield model


@pytest.fixture(scope="module")
def url(stories: Path, kernels: None) -> Iterator[Any]:
    from tests.api.server.running import Running

    with ExitStack() as stack:
        yield Running(stories, stack, {}).http


@pytest.fixture
def write(gguf_hub: Cli, stories: Path, client: Llama, request: Any) -> Callable[..., str]:
    """Write through a surface: ``write(surface, temperature=0, max_tokens=200)``."""

    def by_command_line(**options: Any) -> str:
        flags = {"temperature": "--temp", "max_tokens": "-n"}
        arguments = [
            word
            for name, value in options.items()
            for word in (flags.get(name, f"--{name}"), value)
        ]
        code, out, _ = gguf_hub("run", stories, "-c", 256, "-p", PROMPT, *arguments)
        assert code == 0
        return out.removeprefix(PROMPT).removesuffix("\n")

    def by_stream(**options: Any) -> str:
        parts = client(PROMPT, stream=True, **options)
        return "".join(part["choices"][0]["text"] for part in parts)

    def by_server(**options: Any) -> str:
        http = request.getfixturevalue("url")
        body = {"prompt": PROMPT, **options}
        if not options.get("stream"):
            text: str = http.post("/v1/completions", json=body).json()["choices"][0]["text"]
            return text
        with http.stream("POST", "/v1/completions", json=body) as reply:
            lines = [line[6:] for line in reply.iter_lines() if line and "[DONE]" not in line]
        return "".join(json.loads(line)["choices"][0]["text"] for line in lines)

    def by_langchain(**options: Any) -> str:
        pytest.importorskip("langchain_core", reason="langchain-core is not installed")
        from gguf_hub.api.langchain import GgufLLM

        text: str = GgufLLM(client=client, **options).invoke(PROMPT)
        return text

    ways: dict[str, Callable[..., str]] = {
        "command line": by_command_line,
        "Llama": lambda **options: str(client(PROMPT, **options)["choices"][0]["text"]),
        "stream": by_stream,
        "server": by_server,
        "server, streamed": lambda **options: by_server(stream=True, **options),
        "LangChain": by_langchain,
    }
    return lambda surface, **options: ways[surface](**options)


@pytest.mark.parametrize("surface", SURFACES)
def test_200_greedy_tokens_are_llama_cpp_pythons(surface: str, write: Any) -> None:
    if surface.startswith("server"):
        pytest.importorskip("fastapi", reason="fastapi is not installed")
    expected = json.loads(REFERENCE.read_text())["results"]["200 tokens"]["choices"][0]["text"]
    assert write(surface, temperature=0, max_tokens=200) == expected


@pytest.mark.parametrize("surface", SURFACES[1:])
@pytest.mark.parametrize(
    "settings",
    [{"seed": 7}, {"seed": 41, "temperature": 1.3, "top_k": 0, "top_p": 0.9, "min_p": 0.01}],
    ids=["defaults", "settings"],
)
def test_a_seed_gives_one_text_everywhere(
    surface: str, settings: dict[str, Any], write: Any, gguf_hub: Cli, stories: Path
) -> None:
    if surface.startswith("server"):
        pytest.importorskip("fastapi", reason="fastapi is not installed")
    shared = {"temperature": 0.8, "max_tokens": 60, **settings}
    assert write(surface, **shared) == write("command line", **shared)


def test_from_the_begin_token_the_ids_are_llama_cpps(client: Llama, data: Path) -> None:
    reference = json.loads((data / "models" / "llamacpp_reference.json").read_text())["results"]
    greedy = reference["stories260K.f32"]["greedy"][:200]
    with GgufFile.open(client.model_path) as file:
        tokenizer = load_tokenizer(file.metadata)
    answer = client([1], temperature=0, max_tokens=200)
    assert answer["choices"][0]["text"] == tokenizer.decode(greedy)


# -- the model card -----------------------------------------------------------------------------

CARD = """
./main -ngl 35 -m mixtral-8x7b-v0.1.Q4_K_M.gguf --color -c 2048 --temp 0.7 --repeat_penalty 1.1 \
-n -1 -p "{prompt}"
"""


@pytest.mark.slow
def test_the_cards_llama_cpp_line_runs_as_printed(gguf_hub: Cli, embedded: Path) -> None:
    line = CARD.replace("mixtral-8x7b-v0.1.Q4_K_M.gguf", str(embedded))
    program, *arguments = shlex.split(line)
    assert program == "./main"
    code, out, err = gguf_hub("run", *arguments)
    assert code == 0
    assert out.startswith("\x1b[33m{prompt}\x1b[0m")
    assert len(out) > 20
    assert err.splitlines()[0].startswith("-ngl 35: everything runs on the CPU: ")

"""Control tokens that are printed: ``--special``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.api.server.running import Running
from tests.api.server.scripted import post

Cli = Callable[..., tuple[int, str, str]]
BOS, EOS = 1, 2
END: dict[str, Any] = {"logit_bias": [[EOS, 1000]], "temperature": 0}


@pytest.fixture(scope="module")
def model(data: Path, kernels: None) -> Path:
    return data / "models" / "stories260K.f32.gguf"


def test_control_tokens_of_a_text_are_printed_on_request(gguf_hub: Cli, model: Path) -> None:
    end = ["-p", "Once", "-n", 3, "--temp", 0, "-no-cnv", "-l", f"{EOS}+1000"]
    assert gguf_hub("run", model, *end, "--special")[:2] == (0, "Once</s>\n")
    assert gguf_hub("run", model, *end)[:2] == (0, "Once\n")
    begin = ["-p", "Once", "-n", 2, "--temp", 0, "-no-cnv", "-l", f"{BOS}+1000"]
    assert gguf_hub("run", model, *begin, "-sp")[:2] == (0, "Once<s><s>\n")
    held = gguf_hub("run", model, "-p", "Once", "-n", 9, "-sp", "--grammar", 'root ::= "a"')
    assert held[:2] == (0, "Oncea\n")  # no token stands outside of the grammar


def test_a_conversation_has_none(gguf_hub: Cli, model: Path) -> None:
    options = ["-n", 2, "--temp", 0, "-cnv", "-st", "-l", f"{BOS}+1000"]
    code, out, err = gguf_hub("run", model, "Hi", *options, "--special")
    assert code == 0 and "<s>" not in out
    assert "--special changes nothing in a conversation" in err


def test_answers_of_a_server_have_them(stories_server: Running) -> None:
    answer = post(stories_server, "/completion", prompt="Once", **END)
    assert (answer["content"], answer["stop_type"]) == ("</s>", "eos")
    body = {"prompt": "Once", **END, "stream": True, "max_tokens": 4}
    with stories_server.http.stream("POST", "/v1/completions", json=body) as reply:
        assert '"text":"</s>"' in reply.read().decode().replace(": ", ":")
    schema = {"json_schema": {"const": 1}, "temperature": 0}
    assert post(stories_server, "/completion", prompt="Once", **schema)["content"].strip() == "1"


@pytest.fixture
def stories_server(model: Path) -> Any:
    from contextlib import ExitStack

    pytest.importorskip("fastapi", reason="fastapi is not installed")
    with ExitStack() as stack:
        yield Running(model, stack, {}, prints_special=True)

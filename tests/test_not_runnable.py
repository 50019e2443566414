"""A model with a part that nothing here computes with: refused by name, and shown by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.api.llama import Llama
from gguf_hub.errors import UnsupportedGgufError
from gguf_hub.gguf.format import Field, TensorSpec
from gguf_hub.gguf.types import QuantType
from tests.crafted import write_model
from tests.hub_server import HubServer
from tests.synth import TINY

Cli = Callable[..., tuple[int, str, str]]
SAYS = "valid GGUF, but not runnable here: "
BIASES = [TensorSpec(f"blk.{i}.attn_norm.bias", (TINY.n_embd,), QuantType.F32) for i in (0, 1)]
NORM = TensorSpec("blk.1.attn_q_norm.weight", (TINY.n_embd // TINY.n_head,), QuantType.F32)
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "a bias": ({"add": BIASES}, "unused tensor `blk.0.attn_norm.bias` (and 1 like it)"),
    "a head norm": ({"add": [NORM]}, "unused tensor `blk.1.attn_q_norm.weight`"),
    "a scale": (
        {"fields": {"llama.logit_scale": Field.of(0.0625)}},
        "key `llama.logit_scale` is 0.0625, expected 0 or 1",
    ),
    "an unknown key": (
        {"fields": {"llama.frobnicate": Field.of(3)}}, "unknown key `llama.frobnicate`",
    ),
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    changes, says = CASES[request.param]
    return write_model(tmp_path / "m.Q8_0.gguf", **changes), SAYS + says


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "MODEL", "-p", "a", "-n", "1"],
        ["perplexity", "MODEL", "--text", "TEXT", "-c", "16"],
        ["bench", "MODEL"],
        ["warmup", "MODEL"],
        ["serve", "MODEL", "--port", "0"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_every_command_that_computes_refuses(
    gguf_hub: Cli, case: tuple[Path, str], arguments: list[str], tmp_path: Path
) -> None:
    path, says = case
    if arguments[0] == "serve":
        pytest.importorskip("fastapi", reason="fastapi is not installed")
    text = tmp_path / "text.txt"
    text.write_text("The hen and the fox went over the hill.\n" * 9)
    places = {"MODEL": str(path), "TEXT": str(text)}
    code, out, err = gguf_hub(*(places.get(word, word) for word in arguments))
    assert (code, out) == (1, "")
    assert says in err


@pytest.mark.parametrize("options", [{}, {"embedding": True}, {"logits_all": True}])
def test_a_program_that_computes_is_refused(case: tuple[Path, str], options: Any) -> None:
    path, says = case
    with pytest.raises(UnsupportedGgufError) as caught:
        Llama(path, verbose=False, **options)
    assert says in caught.value.message
    assert len(Llama(path, vocab_only=True, verbose=False).tokenize(b"a")) > 0


def test_verify_and_inspect_show_it(gguf_hub: Cli, case: tuple[Path, str]) -> None:
    path, says = case
    code, out, _ = gguf_hub("verify", path, "--offline")
    assert (code, says in out) == (0, True)
    (row,) = json.loads(gguf_hub("verify", path, "--offline", "--json")[1])["files"]
    assert "GGUF-NOT-RUNNABLE" in {issue["code"] for issue in row["issues"]}
    code, out, err = gguf_hub("inspect", path)
    assert (code, says in err) == (0, True)
    assert says.removeprefix(SAYS) in out
    data = json.loads(gguf_hub("inspect", path, "--json")[1])
    assert data["verdict"] == "unsupported"
    assert data["compatibility"][0]["loads"] is False
    assert says.removeprefix(SAYS) == data["compatibility"][0]["reason"]


def test_pick_shows_it_and_takes_another(
    gguf_hub: Cli, case: tuple[Path, str], hub_server: HubServer, tmp_path: Path
) -> None:
    path, says = case
    sound = write_model(tmp_path / "m.Q4_0.gguf")
    hub_server.add_repo("org/m", {each.name: each.read_bytes() for each in (path, sound)})
    for subject in ("org/m", tmp_path):
        code, out, err = gguf_hub("pick", subject, "--ram", "1GB", "--no-probe")
        assert (code, f"note: Q8_0: {says}" in err) == (0, True)
        assert "does not run" in next(line for line in out.splitlines() if "Q8_0" in line)
        assert "<- pick" in next(line for line in out.splitlines() if line.startswith("Q4_0"))
    args = ("pick", "org/m:Q8_0", "--ram", "1GB", "--no-probe", "--json")
    code, out, _ = gguf_hub(*args)
    data = json.loads(out)
    assert (code, data["recommended"], data["files"][0]["verdict"]) == (1, None, "does not run")
    assert [SAYS + each for each in data["files"][0]["obstacles"]] == [says]
    assert says.removeprefix(SAYS) in data["reason"]
    data = json.loads(gguf_hub(*args, "--for", "llama.cpp")[1])
    assert data["files"][0]["verdict"] == "fits in RAM"  # llama.cpp may well run it

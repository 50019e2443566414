"""``--override-kv`` and ``kv_overrides``: metadata read otherwise than the file has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gguf_hub import Llama
from gguf_hub.errors import UsageError
from gguf_hub.gguf.overrides import Override, overridden, overrides_of, parse_overrides
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.shards import plan_split, write_shards
from tests.synth import TINY, write_mixtral

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_mixtral(tmp_path / "m.gguf", TINY, layout="merged")


def test_a_text_is_read_as_llama_cpp_reads_it() -> None:
    found = parse_overrides(
        ["a.b=int:4,c=float:1e6", "d=str:x,y=z", "tokenizer.ggml.add_bos_token=bool:false"]
    )
    assert found == (
        Override("a.b", "int", "4"),
        Override("c", "float", "1e6"),
        Override("d", "str", "x,y=z"),  # a comma of the text itself
        Override("tokenizer.ggml.add_bos_token", "bool", "false"),
    )
    same = overrides_of({"a.b": 4, "c": 1e6, "d": "x,y=z", "tokenizer.ggml.add_bos_token": False})
    assert [(o.key, o.kind) for o in same] == [(o.key, o.kind) for o in found]


@pytest.mark.parametrize("text", ["a", "a=4", "a=uint:4", "=int:4", "a=int", "a:int=4", ""])
def test_what_is_none_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match="expected KEY=TYPE:VALUE") as caught:
        parse_overrides([text])
    assert caught.value.hint


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (Override("llama.block_count", "float", "2"), "expected int, found float"),
        (Override("llama.block_count", "int", "two"), "`two` is not of type uint32"),
        (Override("llama.block_count", "int", "-1"), "`-1` is not of type uint32"),
        (Override("general.name", "int", "1"), "expected str, found int"),
        (Override("my.key", "int", "1"), "a key that no program knows"),
    ],
)
def test_a_value_must_be_of_the_type_that_programs_expect(
    path: Path, override: Override, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        overridden(GgufFile.open(path).fields, [override])


@pytest.mark.parametrize("is_split", [False, True], ids=["a file", "a set of shards"])
def test_the_model_is_opened_with_the_values(path: Path, tmp_path: Path, is_split: bool) -> None:
    before = path.read_bytes()
    if is_split:
        write_shards(tmp_path / "s", plan_split(path, max_tensors=10))
        path = next(tmp_path.glob("s-00001-of-*.gguf"))
    options: dict[str, Any] = {"n_ctx": 64, "verbose": False}
    changed = {"llama.rope.freq_base": 3e4, "tokenizer.ggml.add_bos_token": False}
    with Llama(path, **options) as plain, Llama(path, kv_overrides=changed, **options) as other:
        assert (plain.tokenize(b"w1")[0], other.tokenize(b"w1")[0] != 1) == (1, True)
        assert other.metadata["llama.rope.freq_base"] == "30000.000000"
        with Llama(path, rope_freq_base=3e4, **options) as same:
            texts = [
                llm([5, 6, 7, 8, 9], max_tokens=24, temperature=0)["choices"][0]["text"]
                for llm in (other, same)
            ]
    assert texts[0] == texts[1]
    assert (tmp_path / "m.gguf").read_bytes() == before


def test_the_flag_changes_what_run_computes(path: Path, gguf_hub: Cli) -> None:
    run = ["run", path, "-p", "w1 w2 w3", "-n", "30", "--temp", "0", "--no-perf"]
    _, expected, _ = gguf_hub(*run, "--rope-freq-base", "30000")
    code, out, err = gguf_hub(*run, "--override-kv", "llama.rope.freq_base=float:30000")
    assert (code, out) == (0, expected), err
    code, _, err = gguf_hub(*run, "--override-kv", "llama.expert_used_count=int:1")
    assert code == 0, err
    code, _, err = gguf_hub(*run, "--override-kv", "llama.rope.freq_base=int:3")
    assert code == 2
    assert "`llama.rope.freq_base=float:3`" in err

"""Patterns of ``-ot`` as numbers of layers."""

from __future__ import annotations

import pytest

from gguf_hub.api.offload.patterns import n_cpu_moe_of, parse_patterns
from gguf_hub.errors import UsageError

N_LAYER = 12
PARTS = ("gate", "up", "down")


def names(layout: str) -> list[str]:
    outer = ["token_embd.weight", "output_norm.weight", "output.weight"]
    inner = ("attn_q.weight", "ffn_gate_inp.weight", "attn_norm.weight")
    found = [f"blk.{i}.{name}" for i in range(N_LAYER) for name in inner]
    for i in range(N_LAYER):
        if layout == "merged":
            found += [f"blk.{i}.ffn_{part}_exps.weight" for part in PARTS]
            found += [f"blk.{i}.ffn_down_exps.bias"]
        else:
            found += [f"blk.{i}.ffn_{part}.{e}.weight" for part in PARTS for e in range(4)]
    return outer + found


@pytest.mark.parametrize("layout", ["merged", "split"])
@pytest.mark.parametrize(
    ("patterns", "n"),
    [
        (["exps=CPU"], 12),
        ([r".ffn_.*_exps.=CPU"], 12),
        ([r"\.ffn_(up|gate|down)_exps\.weight=CPU"], 12),
        ([r"ffn_(up|down|gate)_exps=cpu"], 12),
        ([r"blk\.[0-4]\.ffn_.*_exps.=CPU"], 5),
        ([r"blk\.([0-9]|10)\..*exps=CPU"], 11),
        ([r"blk\.0\.ffn_.*exps=CPU", r"blk\.1\.ffn_.*exps=CPU"], 2),
        ([r"blk\.0\.ffn_.*exps=CPU,blk\.1\.ffn_.*exps=CPU"], 2),
        (["ffn_up_exps=CPU,ffn_gate_exps=CPU,ffn_down_exps=CPU"], 12),
        ([r"^blk\.\d{1,1}\..*_exps=CPU"], 10),
        (["token_embd=CPU"], 0),
        (["nothing_like_it=CPU"], 0),
        ([r"(exps|token_embd)=CPU"], 12),
    ],
)
def test_patterns_that_people_type(patterns: list[str], n: int, layout: str) -> None:
    assert n_cpu_moe_of(patterns, names(layout), N_LAYER) == n


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (r"ffn_up_exps=CPU", "some experts' tensors of layer 0 but not all"),
        (r"ffn_(up|down)_exps=CPU", "some experts' tensors of layer 0 but not all"),
        (r"blk\.1[01]\..*_exps=CPU", "layer 11 but not of layer 0"),
        (r"blk\.[02]\..*_exps=CPU", "layer 2 but not of layer 1"),
        (r"attn=CPU", "matches `blk.0.attn_q.weight`"),
        (r"output=CPU", "matches `output_norm.weight`"),
        (r".*=CPU", "matches `output_norm.weight`"),
        (r"blk\.3\.=CPU", "matches `blk.3.attn_q.weight`"),
    ],
)
@pytest.mark.parametrize("layout", ["merged", "split"])
def test_what_cannot_be_done_is_refused(pattern: str, expected: str, layout: str) -> None:
    with pytest.raises(UsageError, match="-ot") as caught:
        n_cpu_moe_of([pattern], names(layout), N_LAYER)
    assert expected in caught.value.message
    assert "--n-cpu-moe" in str(caught.value.hint)


@pytest.mark.parametrize(
    "text", ["exps=CUDA0", "exps", "=CPU", "exps=", "a=CPU,exps=Vulkan0", "exps=CPU,rest"]
)
def test_the_cpu_is_the_only_place(text: str) -> None:
    with pytest.raises(UsageError, match="expected PATTERN=CPU"):
        parse_patterns([text])


def test_a_pattern_that_is_none_is_told() -> None:
    with pytest.raises(UsageError, match="not a regular expression") as caught:
        parse_patterns(["ffn_(up=CPU"])
    assert "-ot exps=CPU" in str(caught.value.hint)

"""``gguf-hub bench``: keys and form; never how fast anything is."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest

from gguf_hub.run.kernels.build.cpu import ISAS
from tests.synth import TINY, write_mixtral

NUMBER = {"type": "number", "exclusiveMinimum": 0}
MAYBE = {"type": ["number", "null"], "minimum": 0}
RUN = {
    "n_threads": {"type": "integer", "minimum": 1},
    "backend": {"const": "CPU"},
    "n_gpu_layers": {"const": 0},
    "pp_tok_per_s": MAYBE,
    "pp_stddev": MAYBE,
    "tg_tok_per_s": MAYBE,
    "tg_stddev": MAYBE,
    "weight_bytes_per_token": NUMBER,
    "cache_bytes_per_token": {"type": "integer", "minimum": 0},
    "bytes_per_token": NUMBER,
    "tg_bytes_per_s": MAYBE,
    "read_bytes_per_s": NUMBER,
    "tg_read_share": MAYBE,
}
FACTS = {
    "model": {"const": "synthetic"},
    "path": {"type": "string"},
    "file_type": {"const": "Q8_0"},
    "size_bytes": NUMBER,
    "n_params": NUMBER,
    "n_params_active": NUMBER,
    "cpu": {"type": "string", "minLength": 1},
    "isa": {"enum": list(ISAS)},
    "n_batch": {"const": 512},
    "cache_type_k": {"enum": ["f32", "f16", "q8_0"]},
    "cache_type_v": {"enum": ["f32", "f16", "q8_0"]},
    "n_prompt": {"type": "integer"},
    "n_gen": {"type": "integer"},
    "n_depth": {"type": "integer"},
    "repetitions": {"const": 2},
    **RUN,
    "runs": {"type": "array", "items": {"$ref": "#/$defs/run"}},
}
SCHEMA = {
    "properties": FACTS, "required": list(FACTS), "additionalProperties": False,
    "$defs": {"run": {"properties": RUN, "required": list(RUN), "additionalProperties": False}},
}  # fmt: skip


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_mixtral(tmp_path / "model.gguf", TINY, recipe="Q8_0")


def bench(gguf_hub, model: Path, *args: object) -> dict:
    code, out, err = gguf_hub("bench", model, "-r", 2, "--json", *args)
    assert code == 0, err
    return json.loads(out)


@pytest.mark.slow
@pytest.mark.parametrize(
    "args",
    [("-p", 9, "-n", 3), ("-p", 0, "-n", 2), ("-p", 4, "-n", 0), ("-p", 4, "-n", 2, "-d", 7)],
)
def test_json_keeps_to_its_schema(model: Path, args: tuple[object, ...], gguf_hub) -> None:
    facts = bench(gguf_hub, model, "-t", 1, *args)
    jsonschema.validate(facts, SCHEMA)
    assert (facts["pp_tok_per_s"] is None) == (facts["n_prompt"] == 0)
    assert (facts["tg_tok_per_s"] is None) == (facts["n_gen"] == 0)


@pytest.mark.slow
def test_each_number_of_threads_is_a_run(model: Path, gguf_hub) -> None:
    facts = bench(gguf_hub, model, "-t", "2,1", "-p", 4, "-n", 2)
    assert [run["n_threads"] for run in facts["runs"]] == [2, 1]
    assert {key: facts[key] for key in RUN} == facts["runs"][0]


@pytest.mark.slow
def test_a_token_reads_the_experts_in_use_and_the_cache(model: Path, gguf_hub) -> None:
    facts = bench(gguf_hub, model, "-t", 1, "-p", 0, "-n", 4, "-d", 10)
    head_dim = TINY.n_embd // TINY.n_head  # 16, of which values fill half a piece of 32
    # K and V of each layer in halves, at positions 10 to 13: twelve on the average
    per_position = TINY.n_layer * TINY.n_head_kv * (head_dim + 32) * 2
    assert facts["cache_bytes_per_token"] == 12 * per_position
    assert facts["weight_bytes_per_token"] < model.stat().st_size
    assert facts["bytes_per_token"] == (
        facts["weight_bytes_per_token"] + facts["cache_bytes_per_token"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("form", ["", "--markdown"])
def test_people_get_a_row_for_each_test(model: Path, form: str, gguf_hub) -> None:
    args = [arg for arg in ("-p", 4, "-n", 2, "-d", 3, "-r", 1, "-t", 1, form) if arg != ""]
    code, out, err = gguf_hub("bench", "-m", model, *args)
    head, _, prompt, generation = out.splitlines()
    assert code == 0
    assert [title in head for title in ("model", "backend", "tok/s", "of memory")] == [True] * 4
    assert "pp4 @ d3" in prompt and "tg2 @ d3" in generation and "synthetic Q8_0" in prompt
    assert head.startswith("|") == bool(form)
    assert "kernels; memory reads" in err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("-p", 0, "-n", 0), "nothing to measure"),
        (("-r", 0), "--repetitions 0: expected 1 or more"),
        (("-t", "two"), "expected numbers, as in 2 or 1,2,4"),
        (("-t", "-1"), "expected 0 or more"),
        (("-m", "x"), "MODEL is given twice"),
    ],
)
def test_wrong_usage_is_named(
    model: Path, args: tuple[object, ...], message: str, gguf_hub
) -> None:
    code, out, err = gguf_hub("bench", model, *args)
    assert (code, out) == (2, "")
    assert message in err

"""Facts from headers: the same whatever the layout, in one file or in shards."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gguf_hub.errors import GgufError, UnsupportedGgufError
from gguf_hub.gguf.format import Field, TensorInfo, TensorSpec, ValueType
from gguf_hub.gguf.shards import plan_split, write_shards
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.writer import write_gguf
from gguf_hub.hub.catalog import ModelShape, load_catalog
from gguf_hub.hub.fit import Constraints, FileFacts, LayerWeights, facts_from_catalog, need_of
from gguf_hub.hub.survey.headers import facts_of_file, role_of
from gguf_hub.hub.survey.repo import FOLDER, Survey, recall, remember
from tests.synth import SMALL, TINY, Shape, metadata, tensors, write_mixtral

CATALOG = load_catalog()


@pytest.mark.parametrize("file", CATALOG.files, ids=lambda file: file.quant)
def test_a_full_size_header_gives_the_catalogs_figures(tmp_path: Path, file) -> None:
    path = write_mixtral(
        tmp_path / file.filename, Shape(), recipe=file.quant, layout="split", sparse=True
    )
    found, known = facts_of_file(path), facts_from_catalog(CATALOG, file)
    for name in (
        "quant",
        "shape",
        "layout",
        "layers",
        "dense_bytes",
        "expert_bytes",
        "embedding_bytes",
    ):
        assert getattr(found, name) == getattr(known, name), name
    assert found.active_bytes == known.active_bytes
    for constraints in (Constraints(), Constraints(engine="llama.cpp")):
        assert need_of(found, constraints) == need_of(known, constraints)
    assert found.size_bytes / 1e9 == pytest.approx(file.size_bytes / 1e9, abs=0.006)


def without_router(facts: FileFacts) -> FileFacts:
    """The facts of the other layout: its router is of another type."""
    shares = tuple(share for share in facts.tensors if share.role != "router")
    weights = tuple(LayerWeights(expert_bytes=layer.expert_bytes) for layer in facts.weights)
    return replace(facts, tensors=shares, layout="", filenames=("",), size_bytes=0, quant="",
                   weights=weights)  # fmt: skip


def test_layouts_have_the_same_parts(tmp_path: Path) -> None:
    split, merged = (
        facts_of_file(write_mixtral(tmp_path / f"{layout}.gguf", SMALL, layout=layout))
        for layout in ("split", "merged")
    )
    assert (split.layout, merged.layout) == ("split", "merged")
    assert without_router(split) == without_router(merged)
    assert split.expert_share == 2 / 8


def test_shards_are_one_model(tmp_path: Path) -> None:
    path = write_mixtral(tmp_path / "m.Q8_0.gguf", SMALL, recipe="Q8_0")
    shards = write_shards(tmp_path / "m.Q8_0", plan_split(path, max_size_bytes=1_500_000))
    whole = facts_of_file(path)
    for shard in shards:
        found = facts_of_file(shard)
        assert found.filenames == tuple(map(str, shards))
        assert found.quant == "Q8_0"
        assert set(found.tensors) == set(whole.tensors)
    assert facts_of_file(shards[0]).size_bytes == sum(p.stat().st_size for p in shards)
    shards[1].unlink()
    with pytest.raises(GgufError, match="00002-of"):
        facts_of_file(shards[0])


def test_a_dense_model_reads_all_of_its_feed_forward(tmp_path: Path) -> None:
    shape = replace(TINY, n_expert=0)
    facts = facts_of_file(write_mixtral(tmp_path / "m.gguf", shape, layout="merged"))
    assert facts.layout == "none"
    assert facts.expert_share == 1.0
    assert facts.active_bytes == facts.weights_bytes - facts.embedding_bytes


def test_embeddings_that_are_the_output_too_are_read_by_every_token(tmp_path: Path) -> None:
    specs = [spec for spec in tensors(TINY, "merged", "F32") if spec.name != "output.weight"]
    path = tmp_path / "tied.gguf"
    zeros = [(spec, lambda spec=spec: iter([bytes(size_of(spec))])) for spec in specs]
    write_gguf(path, metadata(TINY), zeros)
    facts = facts_of_file(path)
    assert facts.embedding_bytes == 0
    assert facts.dense_bytes > TINY.n_vocab * TINY.n_embd * 4


def size_of(spec: TensorSpec) -> int:
    n = 1
    for length in spec.shape:
        n *= length
    return n * 4


ROLES = {
    "token_embd.weight": "token_embd",
    "output.weight": "output",
    "output_norm.weight": "other",
    "blk.3.attn_q.weight": "attn",
    "blk.3.attn_qkv.weight": "attn",
    "blk.3.attn_output.weight": "attn_output",
    "blk.3.ffn_gate_inp.weight": "router",
    "blk.3.ffn_gate.7.weight": "ffn",
    "blk.3.ffn_up_exps.weight": "ffn",
    "blk.3.ffn_down_exps.weight": "ffn_down",
    "blk.3.ffn_down.0.weight": "ffn_down",
    "blk.0.ffn_down.weight": "other",  # a dense first layer
    "blk.3.ffn_up_shexp.weight": "other",  # an expert that every token uses
    "something.else": "other",
}


@pytest.mark.parametrize("name", ROLES)
def test_roles_in_a_model_with_experts(name: str) -> None:
    info = TensorInfo(name, (32, 4), QuantType.F32, 0, 512)
    assert role_of(info, has_experts=True) == ROLES[name]


def test_roles_in_a_dense_model() -> None:
    info = TensorInfo("blk.0.ffn_down.weight", (32, 4), QuantType.F32, 0, 512)
    assert role_of(info, has_experts=False) == "ffn_down"
    assert role_of(replace(info, name="blk.0.attn_norm.weight", shape=(4,)), has_experts=False) == (
        "norm"
    )


def test_another_architecture_is_judged_but_does_not_run(tmp_path: Path) -> None:
    fields = {"general.architecture": Field.of("rwkv7")}
    fields |= {
        key.replace("llama.", "rwkv7."): field
        for key, field in metadata(TINY).items()
        if key.startswith("llama.")
    }
    facts = facts_of_file(write_mixtral(tmp_path / "m.gguf", TINY, fields=fields))
    assert facts.architecture == "rwkv7"
    assert facts.unrunnable == "architecture `rwkv7` is not one that runs here"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("block_count", 50_000_000, "50,000,000 blocks, but only 23 tensors are there"),
        ("block_count", 2**64 - 1, "expected an integer in [1, 4294967295]"),
        ("block_count", math.nan, "expected an integer >= 1, or an array of such, found nan"),
        ("attention.head_count", ["a", "b"], "found an array of 2 text values"),
        ("embedding_length", math.inf, "found inf"),
        ("feed_forward_length", 0, "expected an integer >= 1"),
        ("expert_count", -1, "expected an integer >= 0"),
    ],
)
def test_sizes_that_make_no_sense_are_named(
    key: str, value: object, message: str, tmp_path: Path
) -> None:
    kind = ValueType.UINT64 if value == 2**64 - 1 else None
    fields = {f"llama.{key}": Field.of(value, kind)}
    path = write_mixtral(tmp_path / "m.gguf", TINY, layout="merged", fields=fields)
    with pytest.raises(UnsupportedGgufError) as caught:
        facts_of_file(path)
    assert f"llama.{key}" in caught.value.message
    assert message in caught.value.message


def test_of_numbers_for_each_layer_the_largest_counts(tmp_path: Path) -> None:
    heads = Field.of(np.array([4, 2], np.uint32))
    fields = {"llama.attention.head_count": heads}
    assert facts_of_file(write_mixtral(tmp_path / "m.gguf", fields=fields)).shape.n_head == 4


def test_what_is_no_model_says_so(tmp_path: Path) -> None:
    path = tmp_path / "mmproj.gguf"
    write_gguf(path, {"general.architecture": Field.of("clip")}, [])
    with pytest.raises(UnsupportedGgufError, match="is a multimodal projector, not a model"):
        facts_of_file(path)
    write_gguf(path, {"general.architecture": Field.of("squirrel")}, [])
    with pytest.raises(UnsupportedGgufError, match=r"no `squirrel.embedding_length`"):
        facts_of_file(path)


# ---- memory ------------------------------------------------------------------------------------


@pytest.fixture
def survey(tmp_path: Path) -> Survey:
    path = write_mixtral(tmp_path / "m.Q4_0.gguf", SMALL, recipe="Q4_0")
    return Survey("org/name", "a" * 40, (facts_of_file(path),), ("a note",))


def test_what_was_read_is_recalled_as_it_was(survey: Survey) -> None:
    assert recall("org/name", "a" * 40) is None
    remember(survey)
    assert recall("org/name", "a" * 40) == survey
    assert recall("org/name", "b" * 40) is None
    assert isinstance(recall("org/name", "a" * 40).files[0].shape, ModelShape)


@pytest.mark.parametrize("damage", ["", "{}", '{"version": 0, "files": [], "notes": []}', "[1"])
def test_a_damaged_record_counts_for_nothing(survey: Survey, damage: str) -> None:
    from gguf_hub.paths import cache_dir

    remember(survey)
    (path,) = (cache_dir() / FOLDER).iterdir()
    path.write_text(damage)
    assert recall("org/name", "a" * 40) is None


def test_a_record_without_layers_counts_for_nothing(survey: Survey) -> None:
    from gguf_hub.paths import cache_dir

    remember(survey)
    (path,) = (cache_dir() / FOLDER).iterdir()
    data = json.loads(path.read_text("utf-8"))
    assert len(data["files"][0].pop("layers")) == SMALL.n_layer
    path.write_text(json.dumps(data))
    assert recall("org/name", "a" * 40) is None

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from gguf_hub.errors import GgufError, UnsupportedGgufError
from gguf_hub.gguf import rewrite
from gguf_hub.gguf.copying import BLOCK_BYTES
from gguf_hub.gguf.experts import group_split, layout, split_name
from gguf_hub.gguf.format import Field, TensorInfo, TensorSpec
from gguf_hub.gguf.header import read_header
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.shards import plan_split, write_shards
from gguf_hub.gguf.swap import WORDS, swap_blocks
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.upgrade import plan_upgrade
from gguf_hub.gguf.validate import validate_file
from gguf_hub.gguf.writer import plan_file, write_gguf
from tests.synth import SMALL, TINY, Shape, metadata, random_blocks, tensors, write_mixtral


def upgraded(path: Path, **options: object) -> GgufFile:
    out = path.with_name("out.gguf")
    plan_upgrade(path, **options).write(out, compare=True)  # type: ignore[arg-type]
    return GgufFile.open(out)


def merged_by_numpy(file: GgufFile, name: str, n_expert: int) -> bytes:
    """What a merged tensor must hold, from the definition."""
    _, block, stem, _ = name.split(".")
    part = stem.removeprefix("ffn_").removesuffix("_exps")
    return np.concatenate(
        [file.tensor_bytes(split_name(int(block), part, e)) for e in range(n_expert)]
    ).tobytes()


@pytest.mark.parametrize("shuffle", [False, True], ids=["in-order", "shuffled"])
@pytest.mark.parametrize("recipe", ["F16", "Q2_K", "Q3_K_M", "Q4_K_M", "Q5_0", "Q8_0"])
def test_experts_are_merged_byte_for_byte(tmp_path: Path, recipe: str, shuffle: bool) -> None:
    path = write_mixtral(tmp_path / "in.gguf", SMALL, recipe=recipe, shuffle=shuffle)
    old, new = GgufFile.open(path), upgraded(path)
    assert len(new.tensors) == len(old.tensors) - 3 * SMALL.n_layer * (SMALL.n_expert - 1)
    assert dict(new.fields) == dict(old.fields)
    for name, info in new.tensors.items():
        if "_exps" in name:
            assert info.shape[2] == SMALL.n_expert
            assert new.tensor_bytes(name).tobytes() == merged_by_numpy(old, name, SMALL.n_expert)
        else:
            assert info.shape == old.tensors[name].shape
            assert new.tensor_bytes(name).tobytes() == old.tensor_bytes(name).tobytes()
    assert validate_file(new.path, "deep").issues == ()
    assert layout(new.tensors) == "merged"


def test_the_full_mixtral_becomes_323_tensors_of_the_same_size(tmp_path: Path) -> None:
    path = write_mixtral(tmp_path / "in.gguf", Shape(), recipe="Q4_K_M", sparse=True)
    plan = plan_upgrade(path)
    assert len(plan.parts) == 323
    assert sum(r.size_bytes for part in plan.parts for r in part.ranges) == 26_440_753_152
    assert plan.changes[0] == "one tensor per expert becomes one for all: 995 tensors, then 323"
    # every expert of the new file lies in its blocks as it did in the old one
    assert len(plan.changes) == 2
    new = plan_file(plan.fields, [part.spec for part in plan.parts])
    for info, part in zip(new.tensors, plan.parts, strict=True):
        assert (new.data_offset + info.offset - part.ranges[0].offset) % BLOCK_BYTES == 0
    header = read_header(new.header)
    assert header.is_whole
    assert header.data_offset == new.data_offset


@pytest.mark.parametrize("alignment", [32, 64, 1 << 16])
def test_blocks_are_kept_in_step(tmp_path: Path, alignment: int, monkeypatch) -> None:
    monkeypatch.setattr("gguf_hub.gguf.rewrite.LEAST_IN_STEP_BYTES", 0)
    path = write_mixtral(tmp_path / "in.gguf", SMALL, recipe="Q8_0", alignment=alignment)
    new = upgraded(path)
    assert validate_file(new.path).issues == ()
    old = GgufFile.open(path)
    offset = new.data_offset + new.tensors["blk.0.attn_q.weight"].offset
    assert (offset - old.data_offset - old.tensors["blk.0.attn_q.weight"].offset) % BLOCK_BYTES == 0
    assert plan_upgrade(new.path).changes == ()
    # the key is worked out anew, and leaves no trace of its own
    back = plan_upgrade(new.path, "split")
    assert {k: f for k, f in back.fields.items() if k != "gguf_hub.padding"} == dict(old.fields)


def test_splitting_undoes_merging(tmp_path: Path) -> None:
    path = write_mixtral(tmp_path / "in.gguf", SMALL, recipe="Q4_K_M", layout="split")
    merged = upgraded(path)
    merged_path = tmp_path / "merged.gguf"
    merged.path.rename(merged_path)
    back = upgraded(merged_path, layout="split")
    old = GgufFile.open(path)
    assert set(back.tensors) == set(old.tensors)
    for name, info in old.tensors.items():
        assert back.tensors[name].shape == info.shape
        assert back.tensor_bytes(name).tobytes() == old.tensor_bytes(name).tobytes()


@pytest.mark.parametrize("layout", ["merged", "split"])
def test_a_file_of_today_needs_nothing(tmp_path: Path, layout: str) -> None:
    path = write_mixtral(tmp_path / "in.gguf", TINY, layout=layout)
    assert plan_upgrade(path, layout).changes == ()  # type: ignore[arg-type]


def test_real_files_need_nothing(data: Path) -> None:
    for path in sorted((data / "models").rglob("*.gguf")):
        assert plan_upgrade(path).changes == (), path.name


@pytest.mark.parametrize("version", [1, 2])
def test_old_versions_become_three(tmp_path: Path, version: int) -> None:
    path = write_mixtral(tmp_path / "in.gguf", TINY, layout="merged", version=version)
    old, new = GgufFile.open(path), upgraded(path)
    assert plan_upgrade(path).changes == (f"version {version} becomes 3",)
    assert new.version == 3
    assert dict(new.fields) == dict(old.fields)
    assert [*new.tensors] == [*old.tensors]
    for name in old.tensors:
        assert new.tensor_bytes(name).tobytes() == old.tensor_bytes(name).tobytes()


def big_endian(raw: np.ndarray, type: QuantType) -> np.ndarray:
    """The same blocks as a big-endian machine holds them."""
    turned = raw.copy()
    swap_blocks(turned, type)
    return turned


def test_the_words_of_a_block_are_those_of_ggml() -> None:
    """From the structures: what is no byte is turned round, byte for byte."""
    turned = {
        QuantType.F32: [3, 2, 1, 0], QuantType.F16: [1, 0], QuantType.I64: [7, 6, 5, 4, 3, 2, 1, 0],
        QuantType.Q4_0: [1, 0, *range(2, 18)],
        QuantType.Q4_1: [1, 0, 3, 2, *range(4, 20)],
        QuantType.Q5_0: [1, 0, 5, 4, 3, 2, *range(6, 22)],
        QuantType.Q5_1: [1, 0, 3, 2, 7, 6, 5, 4, *range(8, 24)],
        QuantType.Q6_K: [*range(208), 209, 208],
        QuantType.MXFP4: list(range(17)),
    }  # fmt: skip
    for type, expected in turned.items():
        raw = np.arange(type.type_size, dtype=np.uint8)
        swap_blocks(raw, type)
        assert raw.tolist() == expected, type.name
    bsums = np.zeros(292, np.uint8)
    bsums[260:] = np.tile([1, 2], 16)
    swap_blocks(bsums, QuantType.Q8_K)
    assert bsums[260:].tolist() == [2, 1] * 16


@pytest.mark.parametrize("type", WORDS, ids=lambda type: type.name)
def test_big_endian_data_is_turned_round(
    tmp_path: Path, type: QuantType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gguf_hub.gguf.swap.CHUNK_BYTES", type.type_size * 7)
    raw = np.random.default_rng(0).integers(0, 256, type.type_size * 30, np.uint8)
    spec = TensorSpec("t", (type.block_size * 30,), type)
    fields = {"general.quantization_version": Field.of(2)}
    path = tmp_path / "in.gguf"
    write_gguf(path, fields, [(spec, big_endian(raw, type))], byte_order="big")
    new = upgraded(path)
    assert new.byte_order == "little"
    assert new.tensor_bytes("t").tobytes() == raw.tobytes()


def test_a_big_endian_mixtral_of_version_one_changes_in_one_go(tmp_path: Path) -> None:
    little = write_mixtral(tmp_path / "little.gguf", SMALL, recipe="Q4_K_M")
    file = GgufFile.open(little)
    data = [(info, big_endian(np.array(file.tensor_bytes(name)), info.type))
            for name, info in file.tensors.items()]  # fmt: skip
    path = tmp_path / "in.gguf"
    write_gguf(path, file.fields, data, byte_order="big", version=1)
    assert len(plan_upgrade(path).changes) == 3
    new = upgraded(path)
    plan_upgrade(little).write(tmp_path / "expected.gguf")
    assert new.path.read_bytes() == (tmp_path / "expected.gguf").read_bytes()


def test_big_endian_types_without_a_rule_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.gguf"
    spec = TensorSpec("t", (256,), QuantType.IQ2_XS)
    write_gguf(path, {}, [(spec, bytes(74))], byte_order="big")
    with pytest.raises(UnsupportedGgufError, match="big-endian IQ2_XS"):
        plan_upgrade(path)


def test_a_missing_key_is_added(tmp_path: Path) -> None:
    path = write_mixtral(tmp_path / "in.gguf", SMALL, recipe="Q8_0", layout="merged")
    file = GgufFile.open(path)
    fields = {k: f for k, f in file.fields.items() if k != "general.quantization_version"}
    write_gguf(
        tmp_path / "b.gguf", fields, [(i, file.tensor_bytes(n)) for n, i in file.tensors.items()]
    )
    assert upgraded(tmp_path / "b.gguf").metadata["general.quantization_version"] == 2


def test_order_gaps_and_trailing_bytes_are_put_right(tmp_path: Path) -> None:
    path = write_mixtral(tmp_path / "in.gguf", TINY, layout="merged")
    with path.open("ab") as file:
        file.write(b"x" * 100)
    assert plan_upgrade(path).changes == ("bytes after the last tensor are left out",)
    assert validate_file(upgraded(path).path).issues == ()


def broken(path: Path, change) -> Path:
    """A split Mixtral whose tensor list went through ``change``."""
    rng = np.random.default_rng(0)
    specs = change(tensors(TINY, "split", "F32"))
    count = {s: int(np.prod(s.shape)) // s.type.block_size for s in specs}
    write_gguf(path, metadata(TINY), [(s, random_blocks(s, count[s], rng)) for s in specs])
    return path


LAST = "blk.1.ffn_up.3.weight"


def test_a_missing_expert_is_named(tmp_path: Path) -> None:
    path = broken(tmp_path / "a.gguf", lambda specs: [s for s in specs if s.name != LAST])
    with pytest.raises(GgufError, match=r"blk\.1\.ffn_up_exps\.weight` needs 4 experts, 3"):
        plan_upgrade(path)


def test_experts_of_different_types_are_refused(tmp_path: Path) -> None:
    path = broken(
        tmp_path / "a.gguf",
        lambda specs: [TensorSpec(s.name, s.shape, QuantType.F16) if s.name == LAST else s
                       for s in specs],
    )  # fmt: skip
    with pytest.raises(GgufError, match=r"differ: F16 \[64, 96\], F32 \[64, 96\]"):
        plan_upgrade(path)


def test_experts_both_split_and_merged_are_refused(tmp_path: Path) -> None:
    extra = TensorSpec("blk.0.ffn_up_exps.weight", (64, 96, 4), QuantType.F32)
    path = broken(tmp_path / "a.gguf", lambda specs: [*specs, extra])
    with pytest.raises(GgufError, match="both split and merged"):
        plan_upgrade(path)


def test_more_experts_than_any_model_has_are_not_counted_out(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    spec = TensorSpec("blk.0.ffn_up_exps.weight", (0, 32, 2**40), QuantType.F32)
    write_gguf(path, {"general.architecture": Field.of("llama")}, [(spec, b"")])
    with pytest.raises(GgufError, match=r"1,099,511,627,776 experts, expected at most 1,024"):
        plan_upgrade(path, "split")


def test_shards_become_what_the_whole_file_becomes(tmp_path: Path) -> None:
    whole = write_mixtral(tmp_path / "in.gguf", TINY)
    paths = write_shards(tmp_path / "part", plan_split(whole, max_tensors=9))
    plan_upgrade(whole).write(tmp_path / "a.gguf")
    plan = plan_upgrade(paths[2])
    assert plan.changes[0] == f"{len(paths)} shards become one file"
    plan.write(tmp_path / "b.gguf", compare=True)
    assert (tmp_path / "b.gguf").read_bytes() == (tmp_path / "a.gguf").read_bytes()


def test_no_shard_is_overwritten(gguf_hub, tmp_path: Path) -> None:
    whole = write_mixtral(tmp_path / "in.gguf", TINY)
    paths = write_shards(tmp_path / "part", plan_split(whole, max_tensors=9))
    before = [path.read_bytes() for path in paths]
    assert gguf_hub("upgrade", paths[0], "--in-place")[0] == 2
    code, _, err = gguf_hub("upgrade", paths[0], paths[1], "--force")
    assert (code, "is the input itself" in err) == (2, True)
    assert [path.read_bytes() for path in paths] == before


def test_a_difference_is_found_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that goes wrong on the way is noticed before the file takes its name."""
    path = write_mixtral(tmp_path / "in.gguf", TINY)
    plan = plan_upgrade(path)
    honest = rewrite._data

    def lying(part: rewrite.Part) -> object:
        if part.spec.name != "output.weight":
            return honest(part)
        raw = bytearray(path.read_bytes()[part.ranges[0].offset :][: part.ranges[0].size_bytes])
        raw[1000] ^= 1
        return bytes(raw)

    monkeypatch.setattr(rewrite, "_data", lying)
    with pytest.raises(GgufError, match=r"tensor `output\.weight` differs"):
        plan.write(tmp_path / "out.gguf", compare=True)
    assert [p.name for p in tmp_path.iterdir()] == ["in.gguf"]


def test_upgrading_in_place(tmp_path: Path) -> None:
    path = write_mixtral(tmp_path / "in.gguf", TINY)
    expected = upgraded(path)
    raw = expected.path.read_bytes()
    plan_upgrade(path).write(path, compare=True)
    assert path.read_bytes() == raw


def test_groups_of_experts() -> None:
    assert layout(["a", "blk.0.ffn_up.weight"]) == "dense"
    assert layout(["blk.0.ffn_up.0.weight", "blk.1.ffn_up_exps.weight"]) == "mixed"
    assert group_split(["blk.0.ffn_up.1.weight", "x", "blk.0.ffn_up.0.weight"]) == {
        "blk.0.ffn_up_exps.weight": {1: "blk.0.ffn_up.1.weight", 0: "blk.0.ffn_up.0.weight"}
    }


def test_ranges_side_by_side_are_copied_as_one(tmp_path: Path) -> None:
    path = write_mixtral(tmp_path / "in.gguf", TINY)
    file = GgufFile.open(path)
    infos: list[TensorInfo] = list(file.tensors.values())
    pieces = [rewrite.range_of(file, info) for info in infos]
    whole = rewrite.joined(pieces)
    assert len(whole) == 1, "all sizes of this model are multiples of the alignment"
    assert whole[0].size_bytes == sum(piece.size_bytes for piece in pieces)
    assert len(rewrite.joined(pieces[::2])) > 1


@pytest.mark.parametrize(("shape", "recipe"), [(TINY, "F32"), (SMALL, "Q4_K_M")])
def test_the_model_says_the_same_to_the_bit(tmp_path: Path, shape: Shape, recipe: str) -> None:
    from gguf_hub.run.model.settings import ModelSettings
    from gguf_hub.run.model.transformer import Transformer

    path = write_mixtral(tmp_path / "in.gguf", shape, recipe=recipe, seed=5)
    plan_upgrade(path).write(tmp_path / "out.gguf")
    logits = []
    for file in (path, tmp_path / "out.gguf"):
        model = Transformer.open(GgufFile.open(file), ModelSettings(n_threads=1))
        logits.append(np.array(model.forward([1, 5, 9, 20, 30, 41], 0)))
        model.close()
    assert np.isfinite(logits[0]).all()
    assert logits[0].std() > 0.1
    assert np.array_equal(*logits)


# -- the command -----------------------------------------------------------------------------


def test_check_tells_and_writes_nothing(gguf_hub, tmp_path: Path) -> None:
    path = write_mixtral(tmp_path / "in.gguf", TINY)
    before = path.read_bytes()
    code, out, err = gguf_hub("upgrade", path, "--check")
    assert (code, out) == (1, "")
    assert "would change: one tensor per expert becomes one for all: 41 tensors, then 23" in err
    assert [p.name for p in tmp_path.iterdir()] == ["in.gguf"]
    assert path.read_bytes() == before


def test_the_command_writes_and_says_where(gguf_hub, tmp_path: Path) -> None:
    path, out_path = write_mixtral(tmp_path / "in.gguf", TINY), tmp_path / "out.gguf"
    code, out, err = gguf_hub("upgrade", path, out_path, "--compare")
    assert (code, out) == (0, f"{out_path}\n")
    assert "changed:" in err
    assert len(GgufFile.open(out_path).tensors) == 23
    assert gguf_hub("upgrade", out_path, "--check")[0] == 0
    code, out, err = gguf_hub("upgrade", out_path, tmp_path / "again.gguf")
    assert (code, out) == (0, "")
    assert "nothing to change" in err


def test_in_place_keeps_the_name(gguf_hub, tmp_path: Path) -> None:
    path = write_mixtral(tmp_path / "in.gguf", TINY)
    code, out, _ = gguf_hub("upgrade", path, "--in-place", "--json")
    assert code == 0
    assert '"n_tensors": 23' in out
    assert len(GgufFile.open(path).tensors) == 23
    assert [p.name for p in tmp_path.iterdir()] == ["in.gguf"]


def test_nothing_is_overwritten_by_accident(gguf_hub, tmp_path: Path) -> None:
    path, other = write_mixtral(tmp_path / "in.gguf", TINY), tmp_path / "out.gguf"
    other.write_bytes(b"mine")
    code, _, err = gguf_hub("upgrade", path, other)
    assert (code, other.read_bytes()) == (1, b"mine")
    assert "--force" in err
    assert gguf_hub("upgrade", path, other, "--force")[0] == 0
    code, _, err = gguf_hub("upgrade", path, path)
    assert code == 2
    assert "--in-place" in err
    (tmp_path / "folder").mkdir()
    assert gguf_hub("upgrade", path, tmp_path / "folder")[1].strip().endswith("folder/in.gguf")


@pytest.mark.parametrize("args", [[], ["x.gguf", "--check"], ["--check", "--in-place"]])
def test_one_of_three_ways_must_be_named(gguf_hub, tmp_path: Path, args: list[str]) -> None:
    path = write_mixtral(tmp_path / "in.gguf", TINY)
    code, _, err = gguf_hub("upgrade", path, *args)
    assert code == 2
    assert "exactly one of OUT, --check and --in-place" in err


def test_bad_input_is_one_line(gguf_hub, tmp_path: Path) -> None:
    path = write_mixtral(tmp_path / "in.gguf", TINY)
    os.truncate(path, 5000)
    code, out, err = gguf_hub("upgrade", path, tmp_path / "out.gguf")
    assert (code, out) == (1, "")
    assert "hint:" in err
    assert not (tmp_path / "out.gguf").exists()

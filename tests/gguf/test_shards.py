from __future__ import annotations

import json
from pathlib import Path

import pytest

from gguf_hub.errors import GgufError, UnsupportedGgufError
from gguf_hub.gguf import shards
from gguf_hub.gguf.format import Field, ValueType
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.rewrite import Rewrite
from gguf_hub.gguf.shard_names import find_shards, parse_shard, shard_path
from gguf_hub.gguf.shards import GgufSet, open_gguf, plan_merge, plan_split, write_shards
from gguf_hub.gguf.validate import validate_file, validate_set
from gguf_hub.gguf.writer import write_gguf
from tests.synth import SMALL, TINY, write_mixtral


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_mixtral(tmp_path / "model.gguf", TINY)


def cut(model: Path, **limits: object) -> tuple[Path, ...]:
    return write_shards(model.with_name("part"), plan_split(model, **limits))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("limits", "count"),
    [
        ({"max_tensors": 10}, 5), ({"max_tensors": 41}, 1), ({"max_size_bytes": 100_000}, 9),
        ({"max_tensors": 20, "is_first_empty": True}, 4), ({"max_size_bytes": 1}, 41), ({}, 1),
    ],
)  # fmt: skip
def test_cutting_and_joining_gives_the_same_file(model: Path, limits: dict, count: int) -> None:
    paths = cut(model, **limits)
    assert len(paths) == count
    assert paths[-1].name == f"part-{count:05d}-of-{count:05d}.gguf"
    merged = model.with_name("merged.gguf")
    plan_merge(paths[count // 2]).write(merged, compare=True)
    assert merged.read_bytes() == model.read_bytes()


def test_shards_keep_to_their_limits(tmp_path: Path) -> None:
    model = write_mixtral(tmp_path / "model.gguf", SMALL, recipe="Q4_K_M")
    for path in cut(model, max_size_bytes=400_000, max_tensors=9):
        file = GgufFile.open(path)
        assert 1 <= len(file.tensors) <= 9
        assert sum(info.size_bytes for info in file.tensors.values()) <= 400_000


def test_the_first_shard_holds_the_metadata(model: Path) -> None:
    first, *others = (GgufFile.open(path) for path in cut(model, max_tensors=15))
    assert len(first.fields) == len(GgufFile.open(model).fields) + 3
    assert first.fields["split.count"] == Field(ValueType.UINT16, 3)
    assert first.fields["split.tensors.count"] == Field(ValueType.INT32, 41)
    for no, file in enumerate(others, 1):
        assert set(file.fields) == set(shards.SPLIT_KEYS)
        assert file.fields["split.no"] == Field(ValueType.UINT16, no)


def test_a_set_reads_like_one_file(model: Path) -> None:
    paths = cut(model, max_tensors=15)
    whole = GgufFile.open(model)
    with open_gguf(paths[1]) as opened:
        assert isinstance(opened, GgufSet)
        assert dict(opened.fields) == dict(whole.fields)
        assert list(opened.tensors) == list(whole.tensors)
        assert opened.metadata["llama.block_count"] == 2
        for name in whole.tensors:
            assert opened.tensor_bytes(name).tobytes() == whole.tensor_bytes(name).tobytes()
    assert isinstance(open_gguf(model), GgufFile)


def test_alignment_holds_in_every_shard(tmp_path: Path) -> None:
    model = write_mixtral(tmp_path / "model.gguf", TINY, alignment=64)
    paths = cut(model, max_tensors=15)
    assert {GgufFile.open(path).alignment for path in paths} == {64}
    plan_merge(paths[0]).write(tmp_path / "merged.gguf")
    assert (tmp_path / "merged.gguf").read_bytes() == model.read_bytes()


def test_names_of_shards() -> None:
    assert shard_path("a/b", 1, 3) == Path("a/b-00002-of-00003.gguf")
    assert parse_shard(Path("a/b-00002-of-00003.gguf")) == (Path("a/b"), 1, 3)
    assert parse_shard(Path("a/b.gguf")) is None
    assert len(find_shards(Path("b-00002-of-00003.gguf"))) == 3
    with pytest.raises(GgufError, match="does not say which"):
        find_shards(Path("b.gguf"))


def rewrite_field(path: Path, key: str, field: Field | None) -> None:
    """The same file with one key changed or left out."""
    file = GgufFile.open(path)
    fields = {k: f for k, f in file.fields.items() if k != key}
    if field:
        fields[key] = field
    tensors = [(info, bytes(file.tensor_bytes(name))) for name, info in file.tensors.items()]
    write_gguf(path, fields, tensors)


def codes(path: Path) -> set[str]:
    return {issue.code for report in validate_set(path) for issue in report.issues}


def test_a_whole_set_has_no_issue(model: Path) -> None:
    for limits in ({"max_tensors": 15}, {"max_tensors": 15, "is_first_empty": True}):
        paths = cut(model, **limits)
        assert codes(paths[0]) == set()
        assert all(validate_file(path, "deep").issues == () for path in paths)


U16 = ValueType.UINT16
BREACHES = [
    ("GGUF-SPLIT-KEY", 1, "split.no", Field(ValueType.UINT32, 1)),
    ("GGUF-SPLIT-KEY", 1, "split.no", None),
    ("GGUF-SPLIT-NO", 1, "split.no", Field(U16, 2)),
    ("GGUF-SPLIT-NO", 2, "split.no", Field(U16, 3)),
    ("GGUF-SPLIT-COUNT", 1, "split.count", Field(U16, 4)),
    ("GGUF-SPLIT-TENSORS", 0, "split.tensors.count", Field(ValueType.INT32, 42)),
]


@pytest.mark.parametrize(("code", "no", "key", "field"), BREACHES)
def test_a_breach_of_a_set_is_found_and_not_opened(
    model: Path, code: str, no: int, key: str, field: Field | None
) -> None:
    paths = cut(model, max_tensors=15)
    rewrite_field(paths[no], key, field)
    assert code in codes(paths[0])
    if field is None or field.type is not ValueType.UINT32:
        with pytest.raises(GgufError):
            GgufSet.open(paths[0])


def test_a_missing_shard_is_named(model: Path) -> None:
    paths = cut(model, max_tensors=15)
    paths[1].unlink()
    assert codes(paths[0]) == {"GGUF-SPLIT-MISSING"}
    for action in (GgufSet.open, plan_merge):
        with pytest.raises(GgufError, match=r"`part-00002-of-00003\.gguf` is missing"):
            action(paths[0])
    paths[0].unlink()
    paths[2].unlink()
    with pytest.raises(GgufError, match="no such file"):
        validate_set(paths[0])


def test_a_tensor_in_two_shards_is_found(model: Path) -> None:
    paths = cut(model, max_tensors=15)
    file = GgufFile.open(paths[1])
    tensors = [(i, bytes(file.tensor_bytes(n))) for n, i in file.tensors.items()]
    other = GgufFile.open(paths[2])
    name, info = next(iter(other.tensors.items()))
    write_gguf(paths[1], dict(file.fields), [*tensors, (info, bytes(other.tensor_bytes(name)))])
    assert "GGUF-SPLIT-DUPLICATE" in codes(paths[0])
    with pytest.raises(GgufError, match=r"is in `part-00002-of-00003\.gguf` too"):
        GgufSet.open(paths[0])


def test_a_tensor_missing_from_all_shards_is_a_matter_of_the_set(model: Path) -> None:
    paths = cut(model, max_tensors=39)
    file = GgufFile.open(paths[1])
    write_gguf(paths[1], dict(file.fields), [])
    rewrite_field(paths[0], "split.tensors.count", Field(ValueType.INT32, 39))
    assert codes(paths[0]) == {"GGUF-TENSOR-MISSING"}


def test_a_failure_leaves_no_shard(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = plan_split(model, max_tensors=15)
    write = Rewrite.write

    def failing(self: Rewrite, path: Path, **options: object) -> None:
        if self is plans[2]:
            raise GgufError("no")
        write(self, path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Rewrite, "write", failing)
    with pytest.raises(GgufError, match="no"):
        write_shards(model.with_name("part"), plans)
    assert [path.name for path in model.parent.iterdir()] == ["model.gguf"]


def test_a_shard_is_not_cut_again(model: Path) -> None:
    paths = cut(model, max_tensors=15)
    with pytest.raises(GgufError, match="is a shard already"):
        plan_split(paths[0])


# -- the commands ----------------------------------------------------------------------------


def test_the_commands_cut_and_join(gguf_hub, model: Path, tmp_path: Path) -> None:
    code, out, err = gguf_hub("split", model, tmp_path / "part.gguf", "--split-max-tensors", 20)
    assert (code, err) == (0, "")
    paths = [Path(line) for line in out.splitlines()]
    assert [path.name for path in paths] == [f"part-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    code, out, err = gguf_hub("merge", paths[1], tmp_path / "merged.gguf", "--compare")
    assert (code, out) == (0, f"{tmp_path}/merged.gguf\n")
    assert "3 shards become one file of 41 tensors" in err
    assert (tmp_path / "merged.gguf").read_bytes() == model.read_bytes()
    code, out, _ = gguf_hub("merge", paths[1], tmp_path / "again.gguf", "--json")
    assert json.loads(out)["n_tensors"] == 41


def test_a_dry_run_writes_nothing(gguf_hub, model: Path, tmp_path: Path) -> None:
    size = ["--max-size", "0.1MB", "--dry-run", "--json"]
    code, out, _ = gguf_hub("split", model, tmp_path / "part", *size)
    data = json.loads(out)
    assert (code, data["written"]) == (0, False)
    assert sum(row["n_tensors"] for row in data["shards"]) == 41
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_nothing_is_overwritten_by_accident(gguf_hub, model: Path, tmp_path: Path) -> None:
    assert gguf_hub("split", model, tmp_path / "part")[0] == 0
    code, _, err = gguf_hub("split", model, tmp_path / "part")
    assert code == 1
    assert "--force" in err
    assert gguf_hub("split", model, tmp_path / "part", "--force")[0] == 0
    shard = tmp_path / "part-00001-of-00001.gguf"
    code, _, err = gguf_hub("merge", shard, tmp_path)
    assert (code, "is a folder" in err) == (2, True)
    code, _, err = gguf_hub("merge", shard, model)
    assert (code, "--force" in err) == (1, True)
    code, _, err = gguf_hub("merge", shard, shard, "--force")
    assert (code, "the input itself" in err) == (2, True)
    gguf_hub("split", model, tmp_path / "part", "--max-tensors", 30)
    first, second = tmp_path / "part-00001-of-00002.gguf", tmp_path / "part-00002-of-00002.gguf"
    code, _, err = gguf_hub("merge", first, second, "--force")
    assert (code, "the input itself" in err) == (2, True)


@pytest.mark.parametrize("args", [["--max-tensors", "0"], ["--max-size", "0MB"],
                                  ["--max-size", "x"], ["--max-size", "5000000"]])  # fmt: skip
def test_limits_that_cannot_be_are_refused(gguf_hub, model: Path, args: list[str]) -> None:
    code, out, _ = gguf_hub("split", model, model.with_name("part"), *args)
    assert (code, out) == (2, "")


def test_big_endian_shards_are_not_mixed_with_others_and_not_copied(tmp_path: Path) -> None:
    paths = [shard_path(tmp_path / "m", no, 2) for no in range(2)]
    for no, order in enumerate(("little", "big")):
        keys = {"split.no": no, "split.count": 2}
        fields = {key: Field(ValueType.UINT16, value) for key, value in keys.items()}
        write_mixtral(paths[no], TINY, fields=fields, byte_order=order)
    with pytest.raises(GgufError, match="big-endian, unlike the first shard"):
        open_gguf(paths[0])
    big = write_mixtral(tmp_path / "big.gguf", TINY, byte_order="big")
    with pytest.raises(UnsupportedGgufError, match="is big-endian"):
        plan_split(big, max_tensors=9)

"""A file that was cut by its bytes: joined, looked at where it lies, refused where it would run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.errors import GgufError, GgufHubError, UsageError
from gguf_hub.gguf.inspection import inspect
from gguf_hub.gguf.joining import join_raw_parts
from gguf_hub.gguf.raw_parts import find_raw_parts
from gguf_hub.gguf.reader import map_joined
from gguf_hub.gguf.shards import open_gguf
from tests.synth import TINY, write_mixtral


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_mixtral(tmp_path_factory.mktemp("whole") / "m.gguf", TINY).read_bytes()


def cut(folder: Path, data: bytes, at: list[int]) -> list[Path]:
    """Write the parts of ``data`` that end at these bytes; return them in order."""
    ends = [*sorted(at), len(data)]
    paths = []
    for i, (start, end) in enumerate(zip([0, *ends], ends, strict=False), 1):
        paths.append(folder / f"m.gguf.part{i}of{len(ends)}")
        paths[-1].write_bytes(data[start:end])
    return paths


@pytest.mark.slow
@given(st.data())
def test_a_file_cut_anywhere_is_joined_to_itself(
    whole: bytes, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    at = data.draw(st.lists(st.integers(0, len(whole)), min_size=1, max_size=11))
    folder = tmp_path_factory.mktemp("parts")
    paths = cut(folder, whole, at)
    parts = find_raw_parts(data.draw(st.sampled_from(paths)))
    assert list(parts) == paths
    offset = data.draw(st.integers(0, len(whole)))
    n = data.draw(st.integers(0, len(whole) - offset))
    assert map_joined(parts).read(offset, n) == whole[offset : offset + n]
    compare = data.draw(st.booleans())
    _, size_bytes = join_raw_parts(parts, folder / "out.gguf", compare=compare)
    assert size_bytes == len(whole)
    assert (folder / "out.gguf").read_bytes() == whole
    assert [path for path in paths if not path.is_file()] == []


def test_the_last_of_several_is_missed_by_the_header(whole: bytes, tmp_path: Path) -> None:
    """Where no name says how many there are, the tensors do."""
    for letter, data in zip("ab", (whole[:9000], whole[9000:-500]), strict=True):
        (tmp_path / f"m.gguf-split-{letter}").write_bytes(data)
    parts = find_raw_parts(tmp_path / "m.gguf-split-b")
    with pytest.raises(GgufError, match="make no GGUF") as caught:
        join_raw_parts(parts, tmp_path / "m.gguf")
    assert "missing at the end" in str(caught.value.hint)
    assert sorted(path.name for path in tmp_path.iterdir()) == [part.name for part in parts]


def test_parts_in_the_wrong_order_are_refused(whole: bytes, tmp_path: Path) -> None:
    paths = cut(tmp_path, whole, [100, 5000])
    with pytest.raises(GgufError, match="make no GGUF"):
        join_raw_parts(paths[::-1], tmp_path / "m.gguf")


def test_a_missing_part_is_named_wherever_the_set_is_opened(whole: bytes, tmp_path: Path) -> None:
    paths = cut(tmp_path, whole, [1000, 2000, 3000])
    paths[1].unlink()
    paths[3].unlink()
    for act in (find_raw_parts, open_gguf):
        with pytest.raises(GgufError, match=r"part2of4`, `m.gguf.part4of4` are missing"):
            act(paths[0])


def test_a_part_is_not_replaced(whole: bytes, tmp_path: Path) -> None:
    paths = cut(tmp_path, whole, [1000])
    with pytest.raises(UsageError):
        join_raw_parts(paths, paths[0])
    assert b"".join(part.read_bytes() for part in paths) == whole


def test_what_is_in_parts_is_shown_and_not_run(whole: bytes, tmp_path: Path) -> None:
    paths = cut(tmp_path, whole, [1000])
    seen = inspect(map_joined(paths), str(paths[0]))
    assert seen.report.verdict == "sound"
    assert (seen.summary.size_bytes, seen.compatibility.remedy) == (len(whole), "merge")
    assert {loader.reason for loader in seen.compatibility.loaders} == {"in raw parts"}
    with pytest.raises(GgufHubError, match="cut by its bytes") as caught:
        open_gguf(paths[1])
    assert f"gguf-hub merge {paths[1]} m.gguf" in str(caught.value.hint)

"""A model in shards runs as it does in one file, to the bit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gguf_hub.errors import GgufError, UnsupportedGgufError, UsageError
from gguf_hub.gguf.format import TensorSpec
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.shards import GgufSet, open_gguf, plan_merge, plan_split, write_shards
from gguf_hub.gguf.types import FileType, QuantType
from gguf_hub.gguf.writer import write_gguf
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.quants.quantize import quantize_file
from gguf_hub.run.quants.recipes import Wishes
from tests.run.model.test_lost_files import CHANGES, needs_posix
from tests.synth import SMALL, write_mixtral

TOKENS = [1, 17, 300, 5, 5, 42, 9]


@pytest.fixture(params=["split", "merged"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_mixtral(tmp_path / "model.gguf", SMALL, recipe="Q4_K_M", layout=request.param)


def cut(model: Path, count: int) -> tuple[Path, ...]:
    """Cut a model into so many shards; experts of a layer come to lie in several."""
    n_tensors = len(GgufFile.open(model).tensors)
    shards = plan_split(model, max_tensors=-(-n_tensors // count))
    assert len(shards) == count
    return write_shards(model.with_name("part"), shards)


def logits(path: Path, *, is_mapped: bool = True, **options: object) -> np.ndarray:
    with (
        open_gguf(path, is_mapped=is_mapped) as file,
        Transformer.open(
            file, ModelSettings(n_threads=2, n_logits=None, n_ctx=64, **options)
        ) as transformer,
    ):
        return transformer.forward(TOKENS, 0, all_logits=True)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize(
    "options",
    [{}, {"is_mapped": False}, {"prefetch_experts": True, "lock": "all"}],
    ids=["mapped", "in memory", "prefetched and locked"],
)
def test_logits_are_those_of_the_merged_file(model: Path, count: int, options: dict) -> None:
    expected = logits(model)
    paths = cut(model, count)
    model.unlink()
    assert np.array_equal(logits(paths[-1], **options), expected)


def test_every_byte_of_every_shard_lies_where_the_set_says(model: Path) -> None:
    paths = cut(model, 3)
    with open_gguf(paths[0]) as opened:
        assert isinstance(opened, GgufSet)
        for path, start in opened.starts.items():
            size = path.stat().st_size
            assert opened.data[start : start + size].tobytes() == path.read_bytes()
        for name, info in opened.tensors.items():
            at = opened.start_of(name)
            data = opened.data[at : at + info.size_bytes]
            assert np.array_equal(data, opened.tensor_bytes(name))
        assert not opened.data.flags.writeable
        assert opened.size_bytes == sum(path.stat().st_size for path in paths)


def test_what_was_mapped_is_unmapped_again(model: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("no /proc/self/maps on this system")
    paths = cut(model, 4)
    for _ in range(3):
        with open_gguf(paths[1]) as opened:
            assert opened.data.size > 0
            assert maps.read_text().count("part-0000") >= len(paths)
        del opened
        assert "part-0000" not in maps.read_text()


def test_a_missing_shard_is_named(model: Path) -> None:
    paths = cut(model, 4)
    paths[2].unlink()
    with pytest.raises(GgufError, match=r"of the 4 shards .*`part-00003.* is missing"):
        open_gguf(paths[0])


@needs_posix
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("which", [0, 3])
def test_a_shard_of_another_size_is_not_computed_with(change: str, which: int, model: Path) -> None:
    paths = cut(model, 4)
    with (
        open_gguf(paths[0]) as file,
        Transformer.open(file, ModelSettings(n_ctx=64)) as transformer,
    ):
        transformer.forward(TOKENS, 0)
        CHANGES[change](paths[which])
        with pytest.raises(GgufError, match=f"{paths[which].name}` has changed while it was in"):
            transformer.forward(TOKENS, 0)
        with pytest.raises(GgufError, match="has changed while it was in use"):
            transformer.decode([(0, 3, 7)])


@needs_posix
def test_shards_that_are_only_elsewhere_go_on(model: Path) -> None:
    paths = cut(model, 4)
    with (
        open_gguf(paths[0]) as file,
        Transformer.open(file, ModelSettings(n_ctx=64)) as transformer,
    ):
        before = transformer.forward(TOKENS, 0)
        for path in paths:
            path.unlink()
        assert np.array_equal(transformer.forward(TOKENS, 0), before)


@needs_posix
@pytest.mark.parametrize("change", CHANGES)
def test_a_shard_that_changes_before_it_is_mapped_is_refused(change: str, model: Path) -> None:
    paths = cut(model, 2)
    with open_gguf(paths[0]) as file:
        CHANGES[change](paths[1])
        with pytest.raises(GgufError, match="has changed while it was opened"):
            Transformer.open(file, ModelSettings(n_ctx=64))
    paths = cut(model, 3)
    with open_gguf(paths[0]) as file:
        shutil.copy(paths[1], paths[1].with_suffix(".new")).replace(paths[1])
        with pytest.raises(GgufError, match="has changed while it was opened"):
            Transformer.open(file, ModelSettings(n_ctx=64))


@pytest.mark.parametrize("change", CHANGES)
def test_shards_that_were_read_first_may_change(change: str, model: Path) -> None:
    paths = cut(model, 4)
    expected = logits(paths[0])
    with open_gguf(paths[0], is_mapped=False) as file:
        for path in paths:
            CHANGES[change](path)
        assert dict(file.metadata)["general.name"] == "synthetic"
        with Transformer.open(
            file, ModelSettings(n_threads=2, n_logits=None, n_ctx=64)
        ) as transformer:
            assert np.array_equal(transformer.forward(TOKENS, 0, all_logits=True), expected)
        for name in file.tensors:
            assert file.tensor_bytes(name).size == file.tensors[name].size_bytes


def test_a_set_that_memory_has_no_room_for_is_an_error(model: Path) -> None:
    paths = cut(model, 2)
    script = (
        "import resource, sys\n"
        "from gguf_hub.errors import GgufError, ResourceError\n"
        "from gguf_hub.gguf.mapping import Extent, map_together, read_together\n"
        "from pathlib import Path\n"
        "path = Path(sys.argv[1])\n"
        "extents = [Extent(path, 1 << 40, path.stat())] * 2\n"
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 40, 1 << 40))\n"
        "try: map_together(extents)\n"
        "except GgufError as error: print(error.hint)\n"
    )
    if sys.platform != "linux":
        pytest.skip("limits on address space hold on Linux")
    done = subprocess.run(
        [sys.executable, "-c", script, paths[0]], capture_output=True, text=True, check=True
    )
    assert "ulimit -v" in done.stdout


def test_no_shard_is_replaced_by_what_is_made_of_the_set(model: Path) -> None:
    paths = cut(model, 3)
    before = [path.read_bytes() for path in paths]
    for path in paths:
        with pytest.raises(UsageError, match="is the input itself"):
            quantize_file(
                paths[0], path, FileType.Q8_0, requantize=True, wishes=Wishes(is_pure=True)
            )
        with pytest.raises(UsageError, match="is the input itself"):
            plan_merge(paths[0]).write(path)
    assert [path.read_bytes() for path in paths] == before


def test_what_is_not_computed_is_refused_in_whichever_shard_it_lies(model: Path) -> None:
    whole = GgufFile.open(model)
    tensors = [(info, whole.tensor_bytes(name)) for name, info in whole.tensors.items()]
    bias = TensorSpec("blk.1.attn_norm.bias", (SMALL.n_embd,), QuantType.F32)
    more = model.with_name("more.gguf")
    write_gguf(more, whole.fields, [*tensors, (bias, bytes(4 * SMALL.n_embd))])
    paths = cut(more, 4)
    with open_gguf(paths[0]) as file, pytest.raises(UnsupportedGgufError, match=r"attn_norm\.bias"):
        Transformer.open(file, ModelSettings(n_ctx=64))

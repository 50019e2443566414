"""Machines without the file fetch the tensors that they compute: no others, and each checked."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.api.cluster.copies import NodeFiles
from gguf_hub.api.cluster.serving import FileServer
from gguf_hub.errors import ChecksumError, ClusterError, GgufHubError
from gguf_hub.gguf.shards import Gguf, open_gguf, open_slice, plan_split, write_shards
from gguf_hub.gguf.slices import SLICE_SUFFIX
from gguf_hub.hub.download.inventory import Roots
from gguf_hub.hub.download.leftovers import Kind, clear, find_leftovers
from gguf_hub.hub.store import Store, StoredFile
from gguf_hub.progress import SilentProgress
from gguf_hub.run.cluster.hosts import LocalHost, ThreadStage, even_stages
from gguf_hub.run.cluster.model import ClusterModel
from gguf_hub.run.cluster.stage import count_layers, stage_tensors
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from tests.hub_server import Fault, HubServer
from tests.run.cluster.stages import Notes
from tests.synth import Shape, write_mixtral

SHAPE = Shape(
    n_layer=4, n_embd=256, n_head=8, n_head_kv=2, n_ff=256, n_expert=4, n_expert_used=2,
    n_vocab=300, n_ctx=512,
)  # fmt: skip
SETTINGS = ModelSettings(n_ctx=64, n_threads=1)
PROMPT = [1, 5, 9, 200, 17]
REPO = "org/mix-GGUF"


class LackingFiles(NodeFiles):
    """The files of a machine that has no copy."""

    def find(self, path: Path) -> Path | None:
        return None


class LackingHost(LocalHost):
    """Nodes that are threads of this process and have none of the driver's files."""

    def __init__(self, n_nodes: int, folder: Path, store: Store, builder: KernelBuilder) -> None:
        self.folder, self.builder = folder, builder
        self.server = FileServer("127.0.0.1", store)
        super().__init__([f"node-{i}" for i in range(n_nodes)])

    def start(self, node: str) -> ThreadStage:
        return ThreadStage(self.key, self.builder, LackingFiles(self.folder / node))

    def offer(self, file: Gguf, names: Collection[str]) -> Mapping[str, Any]:
        return self.server.offer(file, names)

    def close(self) -> None:
        self.server.close()


class Counts(SilentProgress):
    """Keeps what tasks had to do, and what they counted."""

    def __init__(self) -> None:
        self.tasks: dict[str, tuple[int | None, list[int]]] = {}

    def task(self, label: str, total: int | None, *, unit: str = "B", done: int = 0) -> Any:
        self.tasks[label] = total, [done]
        return _CountedTask(self.tasks[label][1])


class _CountedTask:
    def __init__(self, counts: list[int]) -> None:
        self.counts = counts

    def advance(self, n: int) -> None:
        self.counts.append(n)

    def __enter__(self) -> _CountedTask:
        return self

    def __exit__(self, *error: object) -> None:
        pass


@pytest.fixture(scope="module")
def builder(kernels: None) -> KernelBuilder:
    return KernelBuilder()


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixtral(tmp_path_factory.mktemp("m") / "m.gguf", SHAPE, recipe="Q4_K_M", seed=7)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "driver")


@pytest.fixture
def lacking(tmp_path: Path, store: Store, builder: KernelBuilder) -> Callable[[int], LackingHost]:
    return lambda n_nodes: LackingHost(n_nodes, tmp_path / "nodes", store, builder)


@pytest.fixture
def served(hub_server: HubServer, mixture: Path, store: Store) -> Iterator[HubServer]:
    """A hub, or the mirror of another node, that has the driver's file, as its record knows."""
    commit = hub_server.add_repo(REPO, {"m.gguf": mixture.read_bytes()})
    sha256 = next(iter({f.sha256 for f in _listed(REPO)}))
    assert sha256
    store.add(StoredFile.of(mixture, sha256, repo_id=REPO, commit=commit))
    hub_server.requests.clear()
    yield hub_server


def _listed(repo_id: str) -> Any:
    from gguf_hub.hub.client import HfHub

    return HfHub().list_files(repo_id).files


def shares(path: Path, n_nodes: int) -> list[int]:
    """Bytes of the tensors of each stage, and of the header."""
    with open_gguf(path) as file:
        return [
            sum(part.data_offset for part in file.files)
            + sum(file.tensors[name].size_bytes for name in stage_tensors(file, stage))
            for stage in even_stages(count_layers(file), n_nodes)
        ]


def logits_of(path: Path, host: LocalHost) -> np.ndarray:
    with open_gguf(path) as file, ClusterModel.open(file, SETTINGS, host=host) as model:
        return model.forward(PROMPT, 0)


def fetched(path: Path, host: LocalHost) -> list[int]:
    """Open a model; return what each node fetched for that."""
    with open_gguf(path) as file, ClusterModel.open(file, SETTINGS, host=host) as model:
        return [stage.remote.facts["fetched_bytes"] for stage in model.stages.placed]


def slices_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob(f"*{SLICE_SUFFIX}"))


@pytest.mark.slow
@pytest.mark.parametrize("n_nodes", [2, 3, 4])
def test_each_node_gets_its_share_and_the_logits_are_those_of_the_file(
    mixture: Path, lacking: Callable[[int], LackingHost], builder: KernelBuilder, n_nodes: int
) -> None:
    host = lacking(n_nodes)
    with (
        open_gguf(mixture) as file,
        Transformer.open(file, SETTINGS, builder=builder) as one,
        ClusterModel.open(file, SETTINGS, host=host) as several,
    ):
        np.testing.assert_array_equal(several.forward(PROMPT, 0), one.forward(PROMPT, 0))
        counted = [stage.remote.facts["fetched_bytes"] for stage in several.stages.placed]
        assert counted == shares(mixture, n_nodes)
        # counted by the mirror that served them, too
        assert sum(host.server.sent_bytes.values()) <= 1.01 * sum(shares(mixture, n_nodes))


@pytest.mark.slow
def test_only_what_is_new_is_fetched_for_another_placing(
    mixture: Path, lacking: Callable[[int], LackingHost]
) -> None:
    first = fetched(mixture, lacking(2))
    assert fetched(mixture, lacking(2)) == [0, 0]
    alone = fetched(mixture, lacking(1))
    assert alone == [shares(mixture, 1)[0] - first[0]]


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="files have holes only where they are asked for")
def test_slices_take_no_room_for_what_they_lack(
    mixture: Path, lacking: Callable[[int], LackingHost], tmp_path: Path
) -> None:
    fetched(mixture, lacking(4))
    for path, share in zip(slices_in(tmp_path), shares(mixture, 4), strict=True):
        assert path.stat().st_size == mixture.stat().st_size
        n_disk = path.stat().st_blocks * 512
        assert n_disk <= share + 64 * 4096 < mixture.stat().st_size


def test_shards_are_fetched_as_slices_of_each(
    mixture: Path, lacking: Callable[[int], LackingHost], tmp_path: Path, builder: KernelBuilder
) -> None:
    shards = write_shards(tmp_path / "set", plan_split(mixture, max_tensors=20))
    assert len(shards) > 2
    found = logits_of(shards[0], lacking(2))
    with open_gguf(mixture) as file, Transformer.open(file, SETTINGS, builder=builder) as one:
        np.testing.assert_array_equal(found, one.forward(PROMPT, 0))
    assert len(slices_in(tmp_path)) == 2 * len(shards)


def test_a_mirror_that_a_node_is_set_to_comes_before_the_driver(
    mixture: Path, lacking: Callable[[int], LackingHost], served: HubServer
) -> None:
    host = lacking(2)
    counted = fetched(mixture, host)
    sent = sum(request.sent_bytes for request in served.body_requests())
    assert counted == shares(mixture, 2)
    assert sum(counted) <= sent <= 1.01 * sum(counted)
    assert host.server.sent_bytes == {}


def test_a_mirror_that_lacks_the_file_is_passed_over(
    mixture: Path, lacking: Callable[[int], LackingHost], served: HubServer
) -> None:
    served.faults.append(Fault("*", "*/resolve/*", status=404))
    notes, host = Notes(), lacking(2)
    with (
        open_gguf(mixture) as file,
        ClusterModel.open(file, SETTINGS, host=host, progress=notes) as model,
    ):
        counted = [stage.remote.facts["fetched_bytes"] for stage in model.stages.placed]
    assert counted == shares(mixture, 2)
    assert sum("asking the driver" in line for line in notes.lines) == 2


def tensor_at(path: Path, name: str) -> int:
    with open_gguf(path) as file:
        return file.start_of(name) + 1000


def test_wrong_bytes_are_fetched_again(
    mixture: Path, lacking: Callable[[int], LackingHost], served: HubServer
) -> None:
    at = tensor_at(mixture, "blk.3.attn_q.weight")
    served.faults.append(Fault("GET", "*/resolve/*", flip_at=at, times=3))
    host = lacking(1)
    expected = logits_of(mixture, LocalHost(["a"], lambda key: ThreadStage(key, host.builder)))
    np.testing.assert_array_equal(logits_of(mixture, host), expected)


def test_bytes_that_stay_wrong_are_refused_by_tensor_and_origin(
    mixture: Path, lacking: Callable[[int], LackingHost], served: HubServer, tmp_path: Path
) -> None:
    at = tensor_at(mixture, "blk.3.attn_q.weight")
    served.faults.append(Fault("GET", "*/resolve/*", flip_at=at))
    with pytest.raises(GgufHubError) as caught:
        fetched(mixture, lacking(1))
    # twice, or once more on a connection that had begun before all were stopped
    expected = r"tensor `blk\.3\.attn_q\.weight` arrived damaged [2-9] times from the hub's"
    assert re.search(expected, str(caught.value))
    assert isinstance(caught.value, ChecksumError | ClusterError)
    served.faults.clear()
    served.requests.clear()
    fetched(mixture, lacking(1))  # what was right is not fetched again
    again = sum(request.sent_bytes for request in served.body_requests())
    assert 0 < again < shares(mixture, 1)[0]


@pytest.mark.slow
def test_an_interrupted_transfer_is_gone_on_with(
    mixture: Path, lacking: Callable[[int], LackingHost], served: HubServer
) -> None:
    served.faults.append(Fault("GET", "*/resolve/*", ends_after=50_000, times=6))
    served.faults.append(Fault("GET", "*/resolve/*", status=503))
    host = lacking(1)
    counted, share = fetched(mixture, host)[0], shares(mixture, 1)[0]
    from_hub = sum(request.sent_bytes for request in served.body_requests())
    from_driver = sum(host.server.sent_bytes.values())
    assert from_hub > 0 and 0 < from_driver < share
    assert share <= counted <= from_driver + from_hub <= 1.01 * share


def test_a_slice_that_changed_on_disk_is_checked_and_mended(
    mixture: Path, lacking: Callable[[int], LackingHost], tmp_path: Path
) -> None:
    fetched(mixture, lacking(1))
    (path,) = slices_in(tmp_path)
    with path.open("r+b") as file:
        file.seek(tensor_at(mixture, "blk.1.attn_q.weight"))
        file.write(b"\xff\x00\xff")
    os.utime(path, ns=(1, 1))
    with open_gguf(mixture) as file:
        size_bytes = file.tensors["blk.1.attn_q.weight"].size_bytes
    assert fetched(mixture, lacking(1)) == [size_bytes]
    assert path.read_bytes() == mixture.read_bytes()


def test_gc_shows_and_removes_slices(
    mixture: Path, lacking: Callable[[int], LackingHost], tmp_path: Path
) -> None:
    fetched(mixture, lacking(1))
    (path,) = slices_in(tmp_path)
    store = Store(tmp_path / "nodes" / "node-0")
    leftovers = find_leftovers(store, Roots((), ()))
    assert [(each.kind, each.path) for each in leftovers] == [(Kind.SLICE, path)]
    assert leftovers[0].size_bytes >= shares(mixture, 1)[0]
    clear(leftovers, store)
    assert find_leftovers(store, Roots((), ())) == []
    assert [each.name for each in path.parent.iterdir()] == [".lock"]
    assert fetched(mixture, lacking(1)) == shares(mixture, 1)


def test_hashes_are_kept_while_the_file_is_there(
    mixture: Path, lacking: Callable[[int], LackingHost], store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(mixture.read_bytes())
    fetched(path, lacking(2))
    assert find_leftovers(store, Roots((), ())) == []
    path.unlink()
    assert [each.kind for each in find_leftovers(store, Roots((), ()))] == [Kind.HASHES]


def test_offline_mode_of_a_node_is_named(
    mixture: Path, lacking: Callable[[int], LackingHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ClusterError, match="cannot be fetched: the driver: offline mode is on"):
        fetched(mixture, lacking(1))


def test_what_is_fetched_is_shown(
    mixture: Path, lacking: Callable[[int], LackingHost], tmp_path: Path
) -> None:
    shards = write_shards(tmp_path / "set", plan_split(mixture, max_tensors=20))
    progress = Counts()
    with (
        open_gguf(shards[0]) as file,
        ClusterModel.open(file, SETTINGS, host=lacking(1), progress=progress),
    ):
        pass
    label = f"fetch {shards[0].name} (node-0)"
    total, counts = progress.tasks[label]
    assert total == shares(shards[0], 1)[0]
    assert all(n >= 0 for n in counts) and sum(counts) <= total


def test_nobody_serves_it(
    mixture: Path, lacking: Callable[[int], LackingHost], monkeypatch: pytest.MonkeyPatch
) -> None:
    host = lacking(1)
    monkeypatch.setattr(host.server, "offer", lambda file, names: {
        **FileServer.offer(host.server, file, names), "origins": [],
    })  # fmt: skip
    with pytest.raises(ClusterError, match="cannot be fetched: nobody serves it"):
        fetched(mixture, host)


def test_a_slice_is_no_model(
    mixture: Path, lacking: Callable[[int], LackingHost], tmp_path: Path,
    gguf_hub: Callable[..., tuple[int, str, str]],
) -> None:  # fmt: skip
    fetched(mixture, lacking(2))
    path = slices_in(tmp_path)[0]
    for command in ("run", "verify", "inspect"):
        code, out, err = gguf_hub(command, path)
        assert code == 1
        assert "is a slice: it has only the tensors" in out + err, command
    with open_slice([path]) as file:
        assert file.tensors

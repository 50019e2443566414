"""Stages that die, hang, or are of another version: the text goes on, or one error says why not."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from gguf_hub.errors import CacheLostError, ClusterError, GgufHubError
from gguf_hub.gguf.shards import open_gguf
from gguf_hub.run.cluster import identity, placing
from gguf_hub.run.cluster.files import SharedFiles
from gguf_hub.run.cluster.hosts import ChildStage, LocalHost, ThreadStage
from gguf_hub.run.cluster.model import ClusterModel
from gguf_hub.run.cluster.pipeline import SILENCE_S
from gguf_hub.run.generation import Generation, GenerationRequest
from gguf_hub.run.generation.engine import Engine
from gguf_hub.run.generation.logits_sampler import LogitsSampler
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.sampler import Sampler, SamplerConfig
from gguf_hub.run.tokenizer import load_tokenizer
from tests.run.cluster.stages import Notes, RecordingHost, opened

SETTINGS = {"n_ctx": 256, "n_threads": 1, "n_slots": 2}
NAME_AT = 104  # a letter of `general.name`
PROMPT = "Once upon a time there was a little dog who"


@pytest.fixture
def child_host(kernels: None) -> RecordingHost:
    """Three nodes that are processes; two are used."""
    return RecordingHost(["a", "b", "c"], ChildStage, n_stages=2)


def write(model: object, path: Path, at: Callable[[int], None] = lambda n: None) -> str:
    """Sixty tokens after a prompt; ``at`` is called before each."""
    with open_gguf(path) as file:
        tokenizer = load_tokenizer(file.metadata)
    tokens = tokenizer.encode(PROMPT)
    sampler = LogitsSampler(Sampler(SamplerConfig(temp=0), tokenizer))
    request = GenerationRequest(tuple(tokens), sampler, max_tokens=60)
    text, parts = Generation(request, tokenizer, 256), []
    for n, delta in enumerate(Engine(model).stream(text)):  # type: ignore[arg-type]
        parts.append(delta.text)
        at(n)
    return "".join(parts)


def pid_of(host: RecordingHost, node: str) -> int:
    process = host.processes[node]
    assert isinstance(process, ChildStage)
    return process.child.pid


@pytest.mark.slow
def test_a_killed_stage_is_placed_anew_and_the_text_goes_on(
    embedded: Path, child_host: RecordingHost
) -> None:
    notes = Notes()
    with opened(embedded, child_host, notes, **SETTINGS) as (one, several):
        expected = write(one, embedded)

        def kill(n: int) -> None:
            if n in (0, 25):
                os.kill(pid_of(child_host, "b" if n == 0 else "a"), signal.SIGKILL)

        assert write(several, embedded, kill) == expected
    assert sum("is lost" in line for line in notes.lines) == 2
    assert any("on `c`" in line for line in notes.lines)


@pytest.mark.slow
def test_a_hung_stage_is_noticed_and_replaced(embedded: Path, child_host: RecordingHost) -> None:
    with opened(embedded, child_host, **SETTINGS) as (one, several):
        expected = write(one, embedded)
        hung = []

        def stop(n: int) -> None:
            if n == 10:
                hung.append((pid_of(child_host, "b"), time.monotonic()))
                os.kill(hung[0][0], signal.SIGSTOP)
            if n == 11:
                hung.append((0, time.monotonic()))

        assert write(several, embedded, stop) == expected
        # noticed after SILENCE_S; the rest is the time to open a stage on a busy machine
        assert hung[1][1] - hung[0][1] < SILENCE_S + 30
    assert SILENCE_S < 5


@pytest.mark.slow
def test_a_stage_that_dies_between_two_texts_is_placed_anew(
    embedded: Path, child_host: RecordingHost
) -> None:
    with opened(embedded, child_host, **SETTINGS) as (one, several):
        expected = one.forward([1, 5, 9], 0)
        several.forward([1, 5, 9], 0)
        os.kill(pid_of(child_host, "a"), signal.SIGKILL)
        while several.reusable(3):
            time.sleep(0.01)
        with pytest.raises(CacheLostError):
            several.forward([7], 3)
        np.testing.assert_array_equal(several.forward([1, 5, 9], 0), expected)
        np.testing.assert_array_equal(several.forward([7], 3), one.forward([7], 3))


@pytest.mark.slow
def test_one_error_says_that_nothing_holds_the_layers(
    embedded: Path, child_host: RecordingHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(placing, "RETURN_S", 0.3)
    with opened(embedded, child_host, **SETTINGS) as (_, several):
        several.forward([1], 0)
        child_host.nodes[:] = ["a"]
        os.kill(pid_of(child_host, "b"), signal.SIGKILL)
        while several.reusable(1):
            time.sleep(0.01)
        with pytest.raises(ClusterError, match="1 nodes are left: expected 2"):
            several.forward([5], 1)
        # and when a node is there again, it is used
        child_host.nodes.append("d")
        np.testing.assert_equal(several.forward([1], 0).shape[0], 1)


@pytest.mark.slow
def test_a_node_that_joins_while_one_is_awaited_is_used(
    embedded: Path, child_host: RecordingHost
) -> None:
    child_host.nodes[:] = ["a", "b"]
    with opened(embedded, child_host, **SETTINGS) as (one, several):
        expected = write(one, embedded)

        def change(n: int) -> None:
            if n == 5:
                child_host.nodes[:] = ["a", "late"]
                os.kill(pid_of(child_host, "b"), signal.SIGKILL)

        assert write(several, embedded, change) == expected
    assert "late" in child_host.processes


@pytest.mark.slow
def test_stages_end_with_their_driver(embedded: Path, child_host: RecordingHost) -> None:
    with opened(embedded, child_host, **SETTINGS) as (_, several):
        child = child_host.processes["a"].child  # type: ignore[attr-defined]
        several._pipeline.close()  # as when the driver dies: its connections end
        assert child.wait(10) == 0


@pytest.fixture
def changed(embedded: Path, tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    def change(at: int) -> Path:
        data = bytearray(embedded.read_bytes())
        data[at] ^= 1
        path = tmp_path / "model.gguf"
        path.write_bytes(data)
        return path

    yield change


@pytest.mark.parametrize(
    ("at", "what"), [(-1, "its weights differs"), (NAME_AT, "its header differs")]
)
def test_another_file_is_refused(
    embedded: Path, changed: Callable[[int], Path], at: int, what: str
) -> None:
    other = changed(at)

    class OtherFiles(SharedFiles):
        def find(self, path: Path) -> Path:
            return other

    settings = ModelSettings(n_ctx=64)
    host = LocalHost(["a", "b"], lambda key: ThreadStage(key, files=OtherFiles()))
    with open_gguf(embedded) as file, pytest.raises(ClusterError, match=what):
        ClusterModel.open(file, settings, host=host)


def test_a_node_without_the_file_is_refused_where_nobody_serves_it(embedded: Path) -> None:
    class NoFiles(SharedFiles):
        def find(self, path: Path) -> None:
            return None

    host = LocalHost(["a"], lambda key: ThreadStage(key, files=NoFiles()))
    with open_gguf(embedded) as file, pytest.raises(ClusterError, match="has no copy of") as caught:
        ClusterModel.open(file, ModelSettings(n_ctx=64), host=host)
    assert "gguf-hub download" in str(caught.value.hint)


def test_another_version_is_refused(embedded: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from gguf_hub.run.cluster import server

    monkeypatch.setattr(server, "program_id", lambda: "0.0.1 (other)")
    with open_gguf(embedded) as file, pytest.raises(ClusterError) as caught:
        ClusterModel.open(file, ModelSettings(n_ctx=64), host=LocalHost(["a"], ThreadStage))
    assert "node `a` has gguf-hub 0.0.1 (other): expected" in str(caught.value)
    assert identity.program_id() in str(caught.value)


def test_an_error_of_a_stage_is_the_drivers(embedded: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(embedded.read_bytes())
    with opened(path, LocalHost(["a", "b"], ThreadStage), **SETTINGS) as (_, several):
        several.forward([1], 0)
        with path.open("ab") as file:
            file.write(b"more")
        with pytest.raises(GgufHubError, match=r"has changed while it was in use"):
            several.forward([1], 0)

"""A file that changes while it is in use: shorter, longer, replaced, or gone."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from gguf_hub.errors import GgufError
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.quants.plan import plan_quantize
from gguf_hub.run.quants.quantize import write_quantized
from gguf_hub.run.quants.recipes import parse_file_type
from gguf_hub.run.tokenizer import load_tokenizer
from tests.synth import TINY, write_mixtral

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps mapped files")
MESSAGE = "has changed while it was in use: expected"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_mixtral(tmp_path / "m.gguf", TINY)


CHANGES: dict[str, Callable[[Path], None]] = {
    "empty": lambda path: os.truncate(path, 0),
    "shorter": lambda path: os.truncate(path, path.stat().st_size // 2),
    "shorter by a byte": lambda path: os.truncate(path, path.stat().st_size - 1),
    "longer": lambda path: os.truncate(path, path.stat().st_size + 1),
}
HARMLESS: dict[str, Callable[[Path], object]] = {
    "deleted": lambda path: path.unlink(),
    "replaced": lambda path: shutil.copy(path, path.with_suffix(".new")).replace(path),
    "touched": lambda path: os.utime(path, (0, 0)),
}


@needs_posix
@pytest.mark.parametrize("change", CHANGES)
def test_a_model_whose_file_has_another_size_is_not_computed(change: str, path: Path) -> None:
    with (
        GgufFile.open(path) as file,
        Transformer.open(file, ModelSettings(n_ctx=8, n_slots=2)) as model,
    ):
        model.forward([1, 2], 0)
        CHANGES[change](path)
        for compute in (lambda: model.forward([3], 2), lambda: model.decode([(0, 3, 2)])):
            with pytest.raises(GgufError, match=MESSAGE):
                compute()


@needs_posix
@pytest.mark.parametrize("change", HARMLESS)
def test_a_file_that_is_only_elsewhere_goes_on(change: str, path: Path) -> None:
    with GgufFile.open(path) as file, Transformer.open(file, ModelSettings(n_ctx=8)) as model:
        before = model.forward([1, 2], 0)
        HARMLESS[change](path)
        np.testing.assert_array_equal(model.forward([1, 2], 0), before)


@pytest.mark.parametrize("change", ["empty", "shorter", "longer"])
def test_a_file_that_was_read_first_may_change(change: str, path: Path) -> None:
    with GgufFile.open(path) as file, Transformer.open(file, ModelSettings(n_ctx=8)) as model:
        expected = model.forward([1, 2], 0)
    with GgufFile.open(path, is_mapped=False) as file:
        CHANGES[change](path)
        assert load_tokenizer(file.metadata).n_vocab == TINY.n_vocab
        assert dict(file.metadata)["general.name"] == "synthetic"
        with Transformer.open(file, ModelSettings(n_ctx=8)) as model:
            np.testing.assert_array_equal(model.forward([1, 2], 0), expected)


def test_an_empty_file_is_refused_either_way(tmp_path: Path) -> None:
    (tmp_path / "empty.gguf").touch()
    for is_mapped in (True, False):
        with pytest.raises(GgufError, match="offset 0: the file is empty"):
            GgufFile.open(tmp_path / "empty.gguf", is_mapped=is_mapped)


@needs_posix
def test_a_source_that_changes_is_not_quantised_further(path: Path, tmp_path: Path) -> None:
    plan = plan_quantize(path, parse_file_type("Q8_0"))
    os.truncate(path, path.stat().st_size - 5000)
    with pytest.raises(GgufError):
        write_quantized(plan, tmp_path / "out.gguf", n_threads=1)
    assert not (tmp_path / "out.gguf").exists()


@needs_posix
def test_the_server_says_so_and_lives(path: Path, kernels: None) -> None:
    for package in ("fastapi", "uvicorn", "httpx"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    from tests.api.server.running import Running

    with ExitStack() as stack:
        http = Running(path, stack, {}, n_ctx=32, n_slots=2).http
        body = {"prompt": [1, 2, 3], "n_predict": 1}
        assert http.post("/completion", json=body).status_code == 200
        os.truncate(path, 4096)
        for _ in range(2):
            reply = http.post("/completion", json=body)
            assert (reply.status_code, MESSAGE in reply.json()["error"]["message"]) == (500, True)
        assert http.get("/health").status_code == 200


# -- what is lost while it is being read -----------------------------------------------------------

LOSE = """
import mmap, os, sys, threading
from gguf_hub.run.kernels.build.bus_error import report_bus_errors
path = sys.argv[1]
file = open(path, "r+b")
data = mmap.mmap(file.fileno(), 0)
with report_bus_errors("error: the file is gone: \\u00e9 \\" % \\\\"):
    if "after" not in sys.argv:
        os.truncate(path, 0)
        reader = threading.Thread(target=lambda: data[5000])
        reader.start() if "thread" in sys.argv else data[5000]
        reader.join()
os.truncate(path, 0)
data[5000]
"""


def lose(tmp_path: Path, *how: str) -> subprocess.CompletedProcess[bytes]:
    (tmp_path / "data").write_bytes(b"x" * 8192)
    command = [sys.executable, "-c", LOSE, str(tmp_path / "data"), *how]
    return subprocess.run(command, capture_output=True, timeout=60)


@needs_posix
@pytest.mark.parametrize("how", [(), ("thread",)], ids=["main thread", "another thread"])
def test_a_page_that_is_gone_ends_with_a_message(how: tuple[str, ...], tmp_path: Path) -> None:
    done = lose(tmp_path, *how)
    expected = '\nerror: the file is gone: é " % \\\n'.encode()
    assert (done.returncode, done.stdout, done.stderr) == (1, b"", expected)


@needs_posix
def test_afterwards_the_system_answers_as_before(tmp_path: Path) -> None:
    done = lose(tmp_path, "after")
    assert (done.returncode, done.stderr) == (-signal.SIGBUS, b"")

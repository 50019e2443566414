"""Memory and threads that the system does not give: an error that says what would take less."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.api.llama import Llama
from gguf_hub.errors import ResourceError
from gguf_hub.gguf.format import Field, ValueType
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from tests.synth import TINY, write_mixtral

# beyond every address, whatever a system promises to those who ask
HUGE = [2**41, 2**47, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 10**30]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixtral(tmp_path_factory.mktemp("memory") / "tiny.gguf", TINY)


@pytest.mark.parametrize("n_ctx", HUGE)
def test_a_context_that_no_memory_holds_is_refused(n_ctx: int, path: Path, gguf_hub: Any) -> None:
    code, out, err = gguf_hub("run", path, "-p", "hi", "-n", 1, "-c", n_ctx)
    assert (code, out) == (1, "")
    assert "error: not enough memory: the K/V cache takes " in err
    assert "hint: a smaller context takes less: `-c`;" in err
    assert "`-ctk q8_0 -ctv q8_0`" in err
    with pytest.raises(ResourceError):
        Llama(path, n_ctx=n_ctx, verbose=False)


@pytest.mark.parametrize("n_ctx", [n for n in HUGE if n < 2**64])
def test_a_file_may_not_ask_for_it_either(n_ctx: int, tmp_path: Path, gguf_hub: Any) -> None:
    field = Field(ValueType.UINT64, n_ctx)
    path = write_mixtral(tmp_path / "m.gguf", TINY, fields={"llama.context_length": field})
    code, out, err = gguf_hub("run", path, "-p", "hi", "-n", 1)
    assert (code, out) == (1, "")
    too_long = (
        rf"key `llama.context_length` is {n_ctx}, expected a whole number in \[1, 4294967295\]"
    )
    assert re.search(f"error: (not enough memory: the K/V cache|.*{too_long})", err)


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"n_batch": 2**50, "n_ctx": 2**50}, "the memory to compute in"),
        ({"n_threads": 2**44}, "the memory to compute in"),
        ({"n_slots": 2**44}, "the K/V cache|the memory to compute in"),
    ],
    ids=str,
)
def test_what_else_takes_memory_is_named(options: dict[str, int], what: str, path: Path) -> None:
    message = f"not enough memory: ({what}) takes"
    with GgufFile.open(path) as file, pytest.raises(ResourceError, match=message):
        Transformer.open(file, ModelSettings(**options))  # type: ignore[arg-type]


# -- within limits of the system -------------------------------------------------------------------

LIMITED = """
import json, resource, sys
path, more_mb, options = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
from gguf_hub.cli.main import run
import gguf_hub.api.llama, gguf_hub.cli.run.generating, threading
from gguf_hub.run.kernels.build.build import KernelBuilder
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.resources import cpus
cpus.usable_cpus = lambda: frozenset(range(2000))  # of a machine that allows many threads
settings = ModelSettings(n_ctx=8)
with GgufFile.open(path) as file, Transformer.open(file, settings) as model:  # all is loaded
    model.forward([1], 0)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + more_mb * 2**20,) * 2)
sys.exit(run(["run", path, "-p", "hi", "-n", "1", *options]))
"""


def within(path: Path, more_mb: int, *options: str) -> subprocess.CompletedProcess[str]:
    """Run a model when no more than so much address space is left."""
    command = [sys.executable, "-c", LIMITED, str(path), str(more_mb), json.dumps(options)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="limits as Linux has them")


@pytest.mark.slow
@needs_linux
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-c", "10000000"], "not enough memory: the K/V cache takes 3.84 GB"),
        (["-c", "1000000", "-b", "1000000"], "not enough memory: the memory to compute in takes"),
        (["-t", "1000"], "the system starts no more than "),
    ],
    ids=["context", "batch", "threads"],
)
def test_a_limit_on_address_space_is_an_error_like_others(
    options: list[str], message: str, path: Path
) -> None:
    done = within(path, 600, *options)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"error: {message}")
    assert "\nhint: " in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@needs_linux
def test_what_fits_the_limit_runs(path: Path) -> None:
    done = within(path, 600, "-c", "64", "-t", "3")
    assert done.returncode == 0, done.stderr

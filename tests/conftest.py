"""Fixtures that every test may use.

Third-party data lies in ``tests/data``. No test writes outside its own folder.
"""

from __future__ import annotations

import io
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from gguf_hub.ownership import weakness_of_way
from gguf_hub.run.gpu import adapters
from tests.hub_server import HubServer
from tests.reference import reference_data

pytest_plugins = ["tests.selection"]  # which tests a run takes

ROOT = Path(__file__).resolve().parent.parent


def _kernel_folder() -> Path:
    """Where tests keep kernels: a checkout may belong to another user, as in some containers."""
    folder = ROOT / ".pytest_cache" / "kernels"
    if weakness_of_way(folder):
        folder = Path(tempfile.gettempdir()) / f"gguf-hub-tests-{os.getuid()}"
    return folder


KERNELS = _kernel_folder()

# a busy machine is no failure of a test
settings.register_profile(
    "project", parent=settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("project")

# shells start background jobs with Ctrl-C ignored, and programs that tests start would inherit that
signal.signal(signal.SIGINT, signal.default_int_handler)

# threads of Mesa's GPU in software crash now and then (gfx-rs/wgpu#3250), and the cores are taken
# by tests anyway
os.environ.setdefault("LP_NUM_THREADS", "0")


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of third-party data that came with the repository."""
    return reference_data()


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep the user's settings, tokens, caches, records and stdin out of every test."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(), "utf-8"))
    for name in ("HF_ENDPOINT", "HF_TOKEN", "HF_HUB_OFFLINE", "NO_COLOR", "GGUF_HUB_CATALOG",
                 "GGUF_HUB_API_KEY", "LLAMA_API_KEY", "GGUF_HUB_SOFTWARE_GPU",
                 "COLUMNS"):  # fmt: skip
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GGUF_HUB_HOME", str(tmp_path / "gguf-hub-home"))
    # kernels are compiled once for all tests and runs: their folder is named after their sources
    monkeypatch.setenv("GGUF_HUB_KERNEL_CACHE", str(KERNELS))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)  # where else kernels could be kept
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf-home"))
    # folders of other programs are those of a user who has none
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MPLCONFIGDIR", str(KERNELS / "matplotlib"))  # it lists fonts only once
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "no-ollama"))
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_DISABLE_TELEMETRY", "1")
    # a GPU of whoever runs the tests is not taken by itself
    monkeypatch.setattr(
        adapters, "may_have_gpu", lambda: os.environ.get(adapters.SOFTWARE_VARIABLE) == "1"
    )


@pytest.fixture(scope="session")
def kernels() -> None:
    """Let fixtures that outlive a test share the kernels of all tests, too."""
    os.environ["GGUF_HUB_KERNEL_CACHE"] = str(KERNELS)


@pytest.fixture(scope="session")
def embedded() -> Path:
    """The small Mixtral that ships inside the package."""
    return ROOT / "gguf_hub" / "data" / "tiny-mixtral.f16.gguf"


@pytest.fixture
def gguf_hub(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line here: ``code, stdout, stderr = gguf_hub("pick", "--json")``."""
    from gguf_hub.cli.main import run

    def call(*args: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run([str(arg) for arg in args])
        out, err = capsys.readouterr()
        return code, out, err

    return call


@pytest.fixture
def hub_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub on loopback that the command line and ``HfHub()`` find through ``HF_ENDPOINT``."""
    with HubServer() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server
    assert server.errors == []

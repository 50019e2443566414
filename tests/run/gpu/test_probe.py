"""How fast a GPU reads weights: measured by a child, remembered; never an error of a driver's."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import asdict, replace
from typing import Any

import pytest

from gguf_hub.errors import GpuError, GpuMemoryError
from gguf_hub.paths import cache_dir
from gguf_hub.run.gpu import probe
from gguf_hub.run.gpu.adapters import SOFTWARE_VARIABLE, Adapter, judge
from gguf_hub.run.gpu.bandwidth import measure_bandwidth
from gguf_hub.run.gpu.device import AdapterInfo
from gguf_hub.run.gpu.probe import probe_bandwidth, recall_bandwidth

INFO = AdapterInfo("NVIDIA GeForce RTX 4090", "Vulkan", "DiscreteGPU", "550.54", 0x10DE, 0x2684,
                   2**31 - 4, 2**40)  # fmt: skip
CARD = Adapter(0, INFO)
SMALL: dict[str, Any] = {"n_bytes": 4_000_000, "n_out": 512, "limit_s": 0.05}


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the process that measures run other code; lists what it was asked."""
    asked: list[tuple[str, ...]] = []

    def become(code: str) -> list[tuple[str, ...]]:
        def start(module: str, arguments: tuple[str, ...], **_: object) -> subprocess.Popen[bytes]:
            asked.append((module, *arguments))
            return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)

        monkeypatch.setattr("gguf_hub.subprocesses.start_python", start)
        return asked

    return become


# ---- measuring ---------------------------------------------------------------------------------


def test_weights_are_read_at_some_speed_within_the_time(device: Any) -> None:
    measure_bandwidth(device, **SMALL)  # compiles kernels
    began = time.perf_counter()
    found = measure_bandwidth(device, **SMALL)
    assert time.perf_counter() - began < 5  # 0.1 s where nothing else runs
    assert 1e7 < found < 1e13


class _Clock:
    """A device whose time passes by the bytes of weights that products see, and nothing else.

    Args:
        device: The GPU that computes.
        bytes_per_s: Of its memory.
    """

    def __init__(self, device: Any, bytes_per_s: float) -> None:
        self._device, self._bytes_per_s = device, bytes_per_s
        self.info, self.max_binding = device.info, device.max_binding
        self.now, self._sizes = 0.0, {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def bind(self, kernel: Any, slices: Any) -> Any:
        from gguf_hub.run.gpu.kernels import W

        bindings = self._device.bind(kernel, slices)
        self._sizes[id(bindings)] = slices[W].size
        return bindings

    def record(self, dispatches: Any) -> Any:
        size = sum(self._sizes[id(each.bindings)] for each in dispatches)
        return self._device.record(dispatches), size

    def submit(self, commands: Any) -> None:
        self._device.submit(commands[0])
        self.now += commands[1] / self._bytes_per_s


def test_every_byte_of_the_weights_counts_once(
    device: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = _Clock(device, 1e9)
    monkeypatch.setattr("time.perf_counter", lambda: clock.now)
    # planes are filled up to 16 bytes, which is nothing here
    assert measure_bandwidth(clock, **SMALL) == pytest.approx(1e9, rel=1e-3)


def test_a_gpu_without_room_is_said(device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(_Clock):
        def buffer(self, size: int) -> Any:
            if size > 100_000:
                raise GpuMemoryError("no room")
            return self._device.buffer(size)

    with pytest.raises(GpuMemoryError, match="no room"):
        measure_bandwidth(Full(device, 1e9), **SMALL)


# ---- asking and remembering --------------------------------------------------------------------


def test_a_figure_is_measured_once_for_each_gpu_and_driver(child: Any) -> None:
    asked = child("print('noise of a driver'); print('{\"bytes_per_s\": 5e11}')")
    assert recall_bandwidth(INFO) is None
    assert asked == []
    assert probe_bandwidth(CARD) == probe_bandwidth(CARD) == recall_bandwidth(INFO) == 5e11
    assert asked == [("gguf_hub.run.gpu.bandwidth", "0", json.dumps(asdict(INFO)))]
    for other in (replace(INFO, driver="560.1"), replace(INFO, name="RTX 3060")):
        assert recall_bandwidth(other) is None
        assert probe_bandwidth(Adapter(1, other)) == 5e11
    assert len(asked) == 3
    assert recall_bandwidth(INFO) == 5e11


@pytest.mark.parametrize("changed", ["wgpu", "gguf-hub"])
def test_other_kernels_are_measured_anew(
    child: Any, changed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    child("print('{\"bytes_per_s\": 5e11}')")
    probe_bandwidth(CARD)
    if changed == "wgpu":
        monkeypatch.setattr(probe, "version", lambda name: "0.99.0")
    else:
        monkeypatch.setattr(probe, "__version__", "99")
    assert recall_bandwidth(INFO) is None


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import os; os.abort()", "signal 6"),
        ("raise SystemExit(3)", "code 3"),
        ("print('no JSON')", "code 0"),
        ("print('[1]')", "code 0"),
        ("print('{\"bytes_per_s\": -1}')", "code 0"),
        ("print('{\"bytes_per_s\": 1e9}', flush=True); import os; os.abort()", "signal 6"),
        ('print(\'{"problem": "no room"}\')', "no room"),
    ],
)
def test_a_failure_is_one_line_and_not_remembered(child: Any, code: str, expected: str) -> None:
    asked = child(code)
    for _ in range(2):
        with pytest.raises(GpuError, match="RTX 4090") as caught:
            probe_bandwidth(CARD)
        assert expected in caught.value.message
        assert "\n" not in caught.value.message
    assert len(asked) == 2
    assert recall_bandwidth(INFO) is None


def test_a_driver_that_hangs_is_left(child: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    child("import time; time.sleep(60)")
    monkeypatch.setattr(probe, "_TIMEOUT_S", 0.1)
    with pytest.raises(GpuError, match="no answer"):
        probe_bandwidth(CARD)


def test_software_is_not_measured(child: Any) -> None:
    asked = child("print('{\"bytes_per_s\": 5e11}')")
    software = judge([replace(INFO, name="llvmpipe", kind="CPU")]).adapters[0]
    with pytest.raises(GpuError, match="`llvmpipe` is not measured: software"):
        probe_bandwidth(software)
    assert asked == []


@pytest.mark.parametrize("text", ["", "[]", '{"KEY": "fast"}', '{"KEY": 0}', '{"KEY": null}'])
def test_a_damaged_record_is_measured_anew(child: Any, text: str) -> None:
    child("print('{\"bytes_per_s\": 5e11}')")
    probe_bandwidth(CARD)
    path = cache_dir() / "machine" / "gpu_speeds.json"
    [key] = json.loads(path.read_text())
    path.write_text(text.replace("KEY", key))
    assert recall_bandwidth(INFO) is None
    assert probe_bandwidth(CARD) == recall_bandwidth(INFO) == 5e11


def test_the_real_child_refuses_a_gpu_that_has_changed(
    adapter: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SOFTWARE_VARIABLE, "1")
    with pytest.raises(GpuError, match="no longer what its driver described"):
        probe_bandwidth(CARD)


@pytest.mark.slow
def test_the_real_child_measures(adapter: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from gguf_hub.run.gpu.adapters import find_gpus

    monkeypatch.setenv(SOFTWARE_VARIABLE, "1")
    [first, *_] = find_gpus().usable
    assert probe_bandwidth(first) == recall_bandwidth(first.info)

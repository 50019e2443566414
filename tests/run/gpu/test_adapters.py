"""Which GPUs there are: by fake drivers, and by lavapipe where it is installed."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace

import pytest

from gguf_hub.paths import cache_dir
from gguf_hub.run.gpu import adapters
from gguf_hub.run.gpu.adapters import SOFTWARE_VARIABLE, find_gpus, judge, may_have_gpu
from gguf_hub.run.gpu.device import AdapterInfo

CARD = AdapterInfo("NVIDIA GeForce RTX 4090", "Vulkan", "DiscreteGPU", "550.54", 0x10DE, 0x2684,
                   2**31 - 4, 2**40)  # fmt: skip
LLVMPIPE = replace(CARD, name="llvmpipe (LLVM 15.0.6, 256 bits)", kind="CPU")
has_wgpu = pytest.mark.skipif(sys.version_info < (3, 11), reason="wgpu needs Python 3.11")


@pytest.fixture(autouse=True)
def real_gpus_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SOFTWARE_VARIABLE, raising=False)


def child(monkeypatch: pytest.MonkeyPatch, code: str) -> list[int]:
    """Let the process that asks drivers run other code; return a list that counts its starts."""
    starts: list[int] = []

    def start(module: str, *arguments: object, **more: object) -> subprocess.Popen[bytes]:
        starts.append(1)
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)

    monkeypatch.setattr("gguf_hub.subprocesses.start_python", start)
    return starts


def test_a_card_can_be_used() -> None:
    report = judge([CARD])
    assert [adapter.index for adapter in report.usable] == [0]
    assert report.problem == ""


@pytest.mark.parametrize(
    "name", [LLVMPIPE.name, "SwiftShader Device", "Microsoft Basic Render Driver"]
)
@pytest.mark.parametrize("kind", ["CPU", "Unknown"])
def test_software_is_refused_by_name(name: str, kind: str) -> None:
    report = judge([replace(CARD, name=name, kind=kind)])
    assert report.usable == ()
    assert name in report.problem
    assert "software" in report.adapters[0].problem


def test_software_beside_a_card_changes_no_numbers() -> None:
    report = judge([LLVMPIPE, CARD])
    assert [(each.index, each.info.name) for each in report.usable] == [(1, CARD.name)]


def test_tests_may_allow_software(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SOFTWARE_VARIABLE, "1")
    assert len(judge([LLVMPIPE]).usable) == 1


def test_no_driver_is_one_line() -> None:
    report = judge([])
    assert "no driver" in report.problem
    assert "\n" not in report.problem


def test_an_old_python_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    assert "3.11" in find_gpus().problem


@has_wgpu
@pytest.mark.parametrize(
    ("installed", "expected"), [(None, "is not installed"), ("0.19.4", "wgpu 0.19.4 is installed")]
)
def test_a_missing_or_foreign_wgpu_is_named(
    installed: str | None, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if installed is None:
            raise adapters.PackageNotFoundError(name)
        return installed

    monkeypatch.setattr(adapters, "version", version)
    report = find_gpus()
    assert expected in report.problem
    assert "gguf-hub[gpu]" in report.hint


@pytest.fixture
def wgpu_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 11, 0))
    monkeypatch.setattr(adapters, "version", lambda name: "0.32.0")


@pytest.mark.parametrize(
    ("code", "expected"),
    [("import os; os.abort()", "signal 6"), ("raise SystemExit(3)", "code 3"),
     ("print('no JSON')", "code 0"), ("print('[{}]')", "code 0"), ("print('[1]')", "code 0")],
)  # fmt: skip
def test_a_driver_that_fails_is_one_line(
    code: str, expected: str, wgpu_is_there: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    child(monkeypatch, code)
    report = find_gpus()
    assert expected in report.problem
    assert "\n" not in report.problem
    assert report.usable == ()


def test_a_driver_that_hangs_is_left(wgpu_is_there: None, monkeypatch: pytest.MonkeyPatch) -> None:
    child(monkeypatch, "import time; time.sleep(60)")
    monkeypatch.setattr(adapters, "_TIMEOUT_S", 0.1)
    assert "no answer" in find_gpus().problem


def test_an_answer_is_remembered_until_something_changes(
    wgpu_is_there: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = json.dumps([asdict(CARD)])
    starts = child(monkeypatch, f"print('noise of a driver'); print({line!r})")
    assert find_gpus() == find_gpus() == judge([CARD])
    assert len(starts) == 1
    assert find_gpus(is_fresh=True) == judge([CARD])
    assert len(starts) == 2
    monkeypatch.setenv("VK_ICD_FILENAMES", "/another.json")
    assert find_gpus() == judge([CARD])
    assert len(starts) == 3


@pytest.mark.parametrize(
    "damage", ["", "[]", "{}", '{"time_s": null}', "name", "time_s", "adapters"]
)
def test_a_damaged_memory_is_asked_again(
    damage: str, wgpu_is_there: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = child(monkeypatch, f"print({json.dumps([asdict(CARD)])!r})")
    find_gpus()
    path = cache_dir() / "machine" / "gpus.json"
    entry = json.loads(path.read_text())
    if damage == "name":
        entry["adapters"][0]["name"] = 5
    elif damage in entry:
        entry[damage] = "x"
    path.write_text(json.dumps(entry) if damage in ("name", *entry) else damage)
    assert find_gpus() == judge([CARD])
    assert len(starts) == 2


def test_an_old_answer_is_asked_again(wgpu_is_there: None, monkeypatch: pytest.MonkeyPatch) -> None:
    starts = child(monkeypatch, f"print({json.dumps([asdict(CARD)])!r})")
    find_gpus()
    monkeypatch.setattr(adapters, "_MAX_AGE_S", 0.0)
    find_gpus()
    assert len(starts) == 2


def test_that_there_is_no_gpu_is_asked_again(
    wgpu_is_there: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = child(monkeypatch, "print('[]')")
    assert "no driver" in find_gpus().problem
    find_gpus()
    assert len(starts) == 2


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists devices")
def test_without_a_device_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "_DEVICES", ("no-such-*", "nul[l]"))
    assert may_have_gpu()
    monkeypatch.setattr(adapters, "_DEVICES", ("no-such-*",))
    assert not may_have_gpu()
    monkeypatch.setenv(SOFTWARE_VARIABLE, "1")
    assert may_have_gpu()


@pytest.mark.slow
@has_wgpu
def test_one_card_behind_two_drivers_is_one_and_two_equal_cards_are_two() -> None:
    pytest.importorskip("wgpu", reason="the extra `gpu` is not installed")
    from gguf_hub.run.gpu.wgpu_device import _without_repeats

    other = replace(CARD, name="RTX 4090 (NVK)", driver="Mesa")
    slow = replace(CARD, backend="D3D12")
    assert _without_repeats([CARD, other, slow, CARD]) == [CARD]
    software = replace(LLVMPIPE, vendor_id=0x10005, device_id=0)
    assert _without_repeats([software, CARD]) == [software, CARD]


@pytest.mark.slow
@has_wgpu
def test_lavapipe_is_found_and_refused_with_nothing_printed(capfd) -> None:
    pytest.importorskip("wgpu", reason="the extra `gpu` is not installed")
    report = find_gpus()
    if not report.adapters:
        pytest.skip("no driver for Vulkan is installed")
    if not report.usable:
        assert "llvmpipe" in report.problem
    from gguf_hub.run.gpu.wgpu_device import list_adapters

    assert [info for info, _ in list_adapters()] == [each.info for each in report.adapters]
    assert capfd.readouterr() == ("", "")

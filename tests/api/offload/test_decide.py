"""What GPUs compute: by fake adapters and memory; nothing is opened on a GPU here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.api.offload import OffloadRequest, decide_offload
from gguf_hub.errors import UsageError
from gguf_hub.gguf.memory.layout import Limits
from gguf_hub.hub.fit import gpu_need
from gguf_hub.hub.fit.offload import GPU_MARGIN_BYTES
from gguf_hub.hub.hardware import Gpu, Hardware
from gguf_hub.hub.survey.headers import facts_of_file
from gguf_hub.run.gpu import adapters
from gguf_hub.run.gpu.adapters import GpuReport, judge
from gguf_hub.run.gpu.device import AdapterInfo
from gguf_hub.run.model.settings import ALL_LAYERS, NO_GPU, GpuSettings, ModelSettings
from gguf_hub.units import GIB
from tests.notes import Notes
from tests.synth import Shape, write_mixtral

NVIDIA, AMD = 0x10DE, 0x1002
CARD = AdapterInfo("RTX 4090", "Vulkan", "DiscreteGPU", "550", NVIDIA, 1, 2**31, 2**40)
RADEON = AdapterInfo("Radeon RX 7900", "Vulkan", "DiscreteGPU", "radv", AMD, 2, 2**31, 2**40)
APU = AdapterInfo("Radeon 780M", "Vulkan", "IntegratedGPU", "radv", AMD, 3, 2**31, 2**40)
LLVMPIPE = AdapterInfo("llvmpipe", "Vulkan", "CPU", "Mesa", 0, 0, 2**27, 2**31)
EIGHT = Shape(n_layer=8, n_embd=64, n_head=4, n_head_kv=2, n_ff=64, n_expert=4, n_vocab=270,
              n_ctx=64)  # fmt: skip
SETTINGS = ModelSettings(n_ctx=64, n_threads=2)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_mixtral(tmp_path / "model.gguf", EIGHT, recipe="Q8_0")


Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Make this machine have other GPUs and other free memory of them."""

    def become(infos: Sequence[AdapterInfo], gpus: Sequence[Gpu] = (), ram: int = 64 * GIB) -> None:
        seen = Hardware(ram, ram, None, 4, 4, "cpu", tuple(gpus), None, ())
        monkeypatch.setattr("gguf_hub.hub.hardware.detect", lambda: seen)
        monkeypatch.setattr(adapters, "find_gpus", lambda: judge(infos))
        monkeypatch.setattr(adapters, "may_have_gpu", lambda: True)

    return become


def card(free: int, vendor: int = NVIDIA, name: str = "RTX 4090") -> Gpu:
    return Gpu(name, 80 * GIB, free, vendor_id=vendor)


def room_for(model: Path, n: int, n_cpu_moe: int = 0, margin: int = 0) -> int:
    """Bytes that hold just so many layers."""
    need = gpu_need(facts_of_file(model), Limits(64, 64, 1, 2))
    return need.own_bytes + sum(need.parts(n, n_cpu_moe)) + margin


def decide(model: Path, **request: Any) -> tuple[GpuSettings, list[str]]:
    notes = Notes()
    request.setdefault("label", f"-ngl {request.get('n_layers')}")
    return decide_offload(model, SETTINGS, OffloadRequest(**request), notes), notes.texts


def test_auto_takes_all_that_fits(model: Path, machine: Machine) -> None:
    machine([CARD], [card(24 * GIB)])
    assert decide(model) == (GpuSettings(9, 0, (0,)), ["`RTX 4090`: all 9 layers"])


@pytest.mark.parametrize("n", [1, 5, 8])
def test_auto_leaves_a_margin_and_a_number_does_not(model: Path, machine: Machine, n: int) -> None:
    machine([CARD], [card(room_for(model, n, margin=GPU_MARGIN_BYTES))])
    assert decide(model)[0] == GpuSettings(n, 0, (0,))
    machine([CARD], [card(room_for(model, n))])
    assert decide(model) == (NO_GPU, decide(model)[1])
    settings, notes = decide(model, n_layers=35)
    assert settings == GpuSettings(n, 0, (0,))
    assert notes == [f"-ngl 35: `RTX 4090`: {n} of 9 layers: no more fit"]


@pytest.mark.parametrize(("n", "expected"), [(1, 1), (8, 8), (9, 9), (35, 9), (ALL_LAYERS, 9)])
def test_a_number_is_taken_at_its_word_where_it_fits(
    model: Path, machine: Machine, n: int, expected: int
) -> None:
    machine([CARD], [card(24 * GIB)])
    settings, notes = decide(model, n_layers=n)
    assert settings.n_layers == expected
    assert len(notes) == 1
    assert "no more fit" not in notes[0]


def test_who_is_quiet_hears_only_of_less(model: Path, machine: Machine) -> None:
    machine([CARD], [card(24 * GIB)])
    assert decide(model, n_layers=9, is_quiet=True) == (GpuSettings(9, 0, (0,)), [])
    machine([CARD], [card(room_for(model, 3))])
    assert len(decide(model, n_layers=9, is_quiet=True)[1]) == 1


def test_no_room_for_a_layer_runs_on_the_cpu(model: Path, machine: Machine) -> None:
    machine([CARD], [card(room_for(model, 1) - 1)])
    settings, notes = decide(model, n_layers=3)
    assert settings == NO_GPU
    assert "no room for a layer" in notes[0]
    assert "runs on the CPU" in notes[0]


def test_a_pattern_that_matches_nothing_is_named(model: Path, machine: Machine) -> None:
    machine([CARD], [card(24 * GIB)])
    settings, notes = decide(model, n_layers=9, cpu_patterns=("exps=CPU,nothing=CPU",))
    assert settings.n_cpu_moe == 8
    assert notes[0] == "-ot `nothing=CPU` matches no tensor of model.gguf"


def test_patterns_are_read_of_a_dense_model_too(tmp_path: Path, machine: Machine) -> None:
    dense = write_mixtral(tmp_path / "m.gguf", replace(EIGHT, n_expert=0), recipe="Q8_0")
    machine([CARD], [card(24 * GIB)])
    with pytest.raises(UsageError, match="of a layer only the experts"):
        decide(dense, n_layers=9, cpu_patterns=("ffn=CPU",))
    assert "matches no tensor" in decide(dense, n_layers=9, cpu_patterns=("exps=CPU",))[1][0]


def test_without_a_gpu_only_who_asks_is_told(model: Path, machine: Machine) -> None:
    machine([LLVMPIPE])
    assert decide(model) == (NO_GPU, [])
    settings, notes = decide(model, n_layers=35)
    assert settings == NO_GPU
    assert notes[0].startswith(
        "-ngl 35: everything runs on the CPU: no GPU but software: `llvmpipe`"
    )
    assert decide(model, devices=("Vulkan0",), label="-dev Vulkan0")[1][0].startswith("-dev")


@pytest.mark.parametrize(
    "request_", [{"n_layers": 0}, {"devices": ()}, {"n_layers": 9, "devices": ()}]
)
def test_none_is_none_and_asks_no_driver(
    model: Path, request_: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "find_gpus", lambda: pytest.fail("a driver was asked"))
    assert decide(model, **request_) == (NO_GPU, [])


def test_where_no_device_is_there_no_driver_is_asked(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "find_gpus", lambda: pytest.fail("a driver was asked"))
    monkeypatch.setattr(adapters, "may_have_gpu", lambda: False)
    assert decide(model) == (NO_GPU, [])
    monkeypatch.setattr(adapters, "find_gpus", lambda: GpuReport(problem="none", hint="buy one"))
    assert decide(model, n_layers=2)[1] == [
        "-ngl 2: everything runs on the CPU: none; buy one"
    ]  # fmt: skip


def test_experts_in_ram_leave_room_for_more_layers(model: Path, machine: Machine) -> None:
    machine([CARD], [card(room_for(model, 9, n_cpu_moe=8))])
    assert decide(model, n_layers=9)[0].n_layers < 9
    for request in ({"n_cpu_moe": 8}, {"n_cpu_moe": ALL_LAYERS}, {"cpu_patterns": ("exps=CPU",)}):
        assert decide(model, n_layers=9, **request)[0] == GpuSettings(9, 8, (0,))
    pattern = r"blk\.[0-2]\.ffn_.*_exps\.=CPU"
    assert decide(model, n_layers=1, cpu_patterns=(pattern,), n_cpu_moe=1)[0].n_cpu_moe == 3


@pytest.mark.parametrize(
    ("n", "n_cpu_moe", "expected"),
    [(9, 8, "all 9 layers, the experts of 8 of them in RAM"), (9, 0, "all 9 layers"),
     (5, 4, "5 of 9 layers, the experts of 1 of them in RAM"), (5, 3, "5 of 9 layers")],
)  # fmt: skip
def test_what_is_done_is_told(
    model: Path, machine: Machine, n: int, n_cpu_moe: int, expected: str
) -> None:
    machine([CARD], [card(24 * GIB)])
    assert decide(model, n_layers=n, n_cpu_moe=n_cpu_moe)[1] == [f"`RTX 4090`: {expected}"]


def test_a_dense_model_has_no_experts_to_keep(tmp_path: Path, machine: Machine) -> None:
    machine([CARD], [card(24 * GIB)])
    dense = write_mixtral(tmp_path / "dense.gguf", replace(EIGHT, n_expert=0), recipe="Q8_0")
    for request in ({"n_cpu_moe": 3}, {"cpu_patterns": ("exps=CPU",)}):
        assert decide(dense, **request)[0] == GpuSettings(9, 0, (0,))


def test_slots_and_context_take_room(model: Path, machine: Machine) -> None:
    machine([CARD], [card(room_for(model, 9))])
    large = replace(SETTINGS, n_slots=64, n_logits=None)
    n = decide_offload(model, large, OffloadRequest(9)).n_layers
    assert n < decide_offload(model, SETTINGS, OffloadRequest(9)).n_layers == 9


# ---- several GPUs ------------------------------------------------------------------------------


def test_one_gpu_is_used_alone_where_it_holds_all(model: Path, machine: Machine) -> None:
    machine([CARD, CARD], [card(8 * GIB), card(24 * GIB)])
    assert decide(model)[0] == GpuSettings(9, 0, (1,))


def test_layers_are_dealt_by_free_memory(model: Path, machine: Machine) -> None:
    three = room_for(model, 9) - (room_for(model, 8) - room_for(model, 2))  # own, 2 layers, output
    machine([CARD, RADEON], [card(room_for(model, 6)), card(three, AMD, "Radeon RX 7900")])
    settings, notes = decide(model, n_layers=9)
    assert settings.devices == (0, 1)
    assert settings.n_layers >= 8
    assert settings.split[0] > settings.split[1] > 0
    assert "`RTX 4090`, `Radeon RX 7900`: " in notes[0]


def test_shares_are_taken_as_given(model: Path, machine: Machine) -> None:
    machine([CARD, CARD], [card(24 * GIB), card(24 * GIB)])
    assert decide(model, split=(3.0, 1.0))[0] == GpuSettings(9, 0, (0, 1), (3.0, 1.0))
    assert decide(model, split=(0.0, 1.0))[0] == GpuSettings(9, 0, (1,))
    assert decide(model, split=(1.0,))[0] == GpuSettings(9, 0, (0,))
    with pytest.raises(UsageError, match="shares for 3 GPUs: 2"):
        decide(model, split=(1.0, 1.0, 1.0))


def test_shares_that_overload_a_gpu_lower_the_number(model: Path, machine: Machine) -> None:
    machine([CARD, CARD], [card(24 * GIB), card(room_for(model, 2))])
    settings, notes = decide(model, n_layers=9, split=(1.0, 3.0))
    assert 0 < settings.n_layers < 9
    assert "no more fit" in notes[0]


def test_one_gpu_by_mode(model: Path, machine: Machine) -> None:
    machine([CARD, RADEON], [card(24 * GIB), card(20 * GIB, AMD, "Radeon RX 7900")])
    assert decide(model, mode="none")[0].devices == (0,)
    assert decide(model, mode="none", main_gpu=1)[0].devices == (1,)
    with pytest.raises(UsageError, match=r"main GPU 2: expected \[0, 1\]"):
        decide(model, mode="none", main_gpu=2)


@pytest.mark.parametrize(
    ("names", "devices"),
    [(("1",), (1,)), (("Vulkan2",), (2,)), (("CUDA1",), (1,)), (("radeon rx",), (2,)),
     (("RTX 4090",), (1,)), (("4090",), (1,))],
)  # fmt: skip
def test_devices_by_number_or_name(
    model: Path, machine: Machine, names: tuple[str, ...], devices: tuple[int, ...]
) -> None:
    machine([LLVMPIPE, CARD, RADEON], [card(24 * GIB), card(20 * GIB, AMD, "Radeon RX 7900")])
    if names == ("4090",):  # a number of no GPU, not a part of a name
        with pytest.raises(UsageError, match="names no GPU"):
            decide(model, devices=names)
        return
    assert decide(model, devices=names)[0].devices == devices


@pytest.mark.parametrize(
    ("name", "expected"),
    [("7", "names no GPU"), ("GeForce", "names no GPU"), ("r", "names several GPUs"),
     ("0", "software")],
)  # fmt: skip
def test_devices_that_are_not_there_are_refused(
    model: Path, machine: Machine, name: str, expected: str
) -> None:
    machine([LLVMPIPE, CARD, RADEON], [card(24 * GIB)])
    with pytest.raises(UsageError, match=expected):
        decide(model, devices=(name,))


def test_of_two_equal_cards_each_has_its_own_memory(model: Path, machine: Machine) -> None:
    machine([CARD, CARD], [card(24 * GIB), card(room_for(model, 3))])
    assert decide(model, n_layers=9, devices=("1",))[0] == GpuSettings(3, 0, (1,))
    assert decide(model, n_layers=9, devices=("0",))[0] == GpuSettings(9, 0, (0,))


def test_graphics_of_a_processor_are_used_only_without_a_card(
    model: Path, machine: Machine
) -> None:
    apu = Gpu("AMD GPU (card1)", 40 * GIB, 30 * GIB, is_unified=True, vendor_id=AMD)
    machine([APU, CARD], [card(24 * GIB), apu])
    assert decide(model)[0].devices == (1,)
    machine([APU], [apu])
    assert decide(model)[0].devices == (0,)


def test_a_card_that_the_system_hides_is_left_out(model: Path, machine: Machine) -> None:
    machine([CARD, RADEON], [card(24 * GIB)])
    assert decide(model)[0].devices == (0,)
    assert decide(model, n_layers=9, split=(1.0,))[0].devices == (0,)
    with pytest.raises(UsageError, match="shares for 2 GPUs: 1"):
        decide(model, split=(1.0, 1.0))
    assert decide(model, n_layers=4, devices=("1",))[0] == GpuSettings(4, 0, (1,))


def test_unknown_memory_is_used_only_on_demand(model: Path, machine: Machine) -> None:
    machine([CARD], [])
    settings, notes = decide(model)
    assert settings == NO_GPU
    assert "`RTX 4090`: its free memory is unknown" in notes[0]
    assert decide(model, n_layers=5)[0] == GpuSettings(5, 0, (0,))

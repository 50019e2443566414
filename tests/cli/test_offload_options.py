"""llama.cpp's options about GPUs: what they ask for, in every command that computes."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from gguf_hub.api.offload import OffloadRequest
from gguf_hub.cli.main import module_of
from gguf_hub.cli.run.offload import offload_request
from gguf_hub.errors import UsageError
from gguf_hub.run.gpu import adapters
from gguf_hub.run.gpu.adapters import GpuReport, judge
from gguf_hub.run.gpu.device import AdapterInfo
from gguf_hub.run.model.settings import ALL_LAYERS

CARD = AdapterInfo("RTX 4090", "Vulkan", "DiscreteGPU", "550.54", 0x10DE, 1, 2**31, 2**40)
COMMANDS = {
    "run": ["model.gguf"],
    "serve": ["model.gguf"],
    "bench": ["model.gguf"],
    "perplexity": ["model.gguf", "-f", "text"],
}


def asked(command: str, *args: str) -> OffloadRequest:
    found = import_module(module_of(command)).command
    with found.make_context(command, [*COMMANDS[command], *args]) as context:
        return offload_request(context.params)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], {"n_layers": None}),
        (["-ngl", "auto"], {"n_layers": None}),
        (["-ngl", "-1"], {"n_layers": None}),
        (["-ngl", "0"], {"n_layers": 0}),
        (["-ngl", "35"], {"n_layers": 35, "label": "-ngl 35"}),
        (["--n-gpu-layers", "ALL"], {"n_layers": ALL_LAYERS, "label": "-ngl all"}),
        (["--gpu_layers", "-2"], {"n_layers": ALL_LAYERS}),
        (["-ngl", "9" * 30], {"n_layers": ALL_LAYERS}),
        (["-ncmoe", "7"], {"n_cpu_moe": 7}),
        (["--cpu-moe"], {"n_cpu_moe": ALL_LAYERS}),
        (["-ot", "exps=CPU", "-ot", "b=CPU"], {"cpu_patterns": ("exps=CPU", "b=CPU")}),
        (["-dev", "none"], {"devices": ()}),
        (["-dev", "Vulkan0, 1"], {"devices": ("Vulkan0", "1"), "label": "-dev Vulkan0, 1"}),
        (["-ts", "3,1"], {"split": (3.0, 1.0)}),
        (["--tensor-split", "3/1.5"], {"split": (3.0, 1.5)}),
        (["-sm", "none", "-mg", "1"], {"mode": "none", "main_gpu": 1}),
        (["-sm", "row"], {"mode": "row"}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_asked_for(command: str, args: list[str], expected: dict[str, Any]) -> None:
    request = asked(command, *args)
    assert {name: getattr(request, name) for name in expected} == expected


@pytest.mark.parametrize(
    "args",
    [["-ngl", "some"], ["-ngl", "-3"], ["-ngl", "1.5"], ["-ts", "a,b"], ["-ts", "-1,2"],
     ["-ts", "nan"], ["-sm", "column"], ["-mg", "-1"], ["-ncmoe", "-1"], ["-ot", "exps"]],
    ids=" ".join,
)  # fmt: skip
def test_values_that_cannot_be_are_refused(args: list[str], gguf_hub, tmp_path: Path) -> None:
    """Before a model is looked for."""
    code, out, err = gguf_hub("run", tmp_path / "no.gguf", *args)
    assert (code, out) == (2, "")
    assert args[1] in err
    assert "no.gguf" not in err


def test_a_request_checks_itself() -> None:
    for wrong in ({"n_layers": -1}, {"n_cpu_moe": -1}, {"main_gpu": -1}, {"split": (-1.0,)}):
        with pytest.raises(UsageError, match="expected"):
            OffloadRequest(**wrong).check()


@pytest.mark.parametrize("command", COMMANDS)
def test_gpus_are_listed_without_a_model(
    command: str, gguf_hub: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "find_gpus", lambda: judge([CARD]))
    assert gguf_hub(command, "--list-devices") == (0, "0: RTX 4090 (Vulkan, 550.54)\n", "")
    monkeypatch.setattr(adapters, "find_gpus", lambda: GpuReport(problem="no driver", hint="h"))
    assert gguf_hub(command, "--list-devices") == (0, "", "none: no driver; h\n")


def test_an_explicit_number_without_a_gpu_is_one_line_and_runs(
    embedded: Path, gguf_hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = GpuReport(problem="the extra `gpu` is not installed", hint="`pip install it`")
    monkeypatch.setattr(adapters, "find_gpus", lambda: report)
    words = ("-m", embedded, "-n", 2, "-c", 64, "--no-perf", "-p", "Once")
    code, text, err = gguf_hub("run", *words, "-ngl", 35)
    assert code == 0
    assert err.splitlines()[0] == (
        "-ngl 35: everything runs on the CPU: the extra `gpu` is not installed; `pip install it`"
    )
    monkeypatch.setattr(adapters, "may_have_gpu", lambda: True)
    code, again, err = gguf_hub("run", *words)
    assert code == 0
    assert "CPU" not in err
    assert len(again) > len("Once") < len(text)

"""GPUs: llama.cpp's options, for every command that computes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli.options import together

if TYPE_CHECKING:
    from gguf_hub.api.offload import OffloadRequest
    from gguf_hub.progress import Progress
    from gguf_hub.run.model.settings import GpuSettings, ModelSettings


class Layers(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """A number of layers, ``all`` or ``auto``; as in llama.cpp -1 is ``auto`` and -2 ``all``."""

    name = "N|all|auto"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return what the help shows."""
        return self.name

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        """Return the number; None for ``auto``."""
        from gguf_hub.run.model.settings import ALL_LAYERS

        text = str(value).lower()
        if text in ("auto", "-1"):
            return None
        if text in ("all", "-2"):
            return ALL_LAYERS
        if not (text.isascii() and text.isdecimal()):
            self.fail(f"`{value}`: expected a number of layers, `all` or `auto`", param, ctx)
        return min(int(text), ALL_LAYERS)


class Shares(click.ParamType):  # type: ignore[type-arg]  # as above
    """Shares of the layers: ``3,1``, or ``3/1``."""

    name = "N[,N...]"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, ...]:
        """Return the numbers."""
        if isinstance(value, tuple):
            return value
        try:
            shares = tuple(float(part) for part in str(value).replace("/", ",").split(","))
        except ValueError:
            self.fail(f"`{value}`: expected numbers, as in 3,1", param, ctx)
        if not all(0 <= share < float("inf") for share in shares):
            self.fail(f"`{value}`: expected numbers of 0 or more", param, ctx)
        return shares


def _list_devices(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if not value or ctx.resilient_parsing:
        return
    from gguf_hub.cli import console
    from gguf_hub.run.gpu.adapters import find_gpus

    report = find_gpus()
    for each in report.usable:
        console.say(f"{each.index}: {each.info.name} ({each.info.backend}, {each.info.driver})")
    if report.problem:
        console.note(f"none: {report.problem}; {report.hint}")
    ctx.exit()


offload_options = together(
    click.option("-ngl", "--gpu-layers", "--n-gpu-layers", "gpu_layers", type=Layers(),
                 default="auto", show_default=True,
                 help="Layers that GPUs compute, the last N; all: the output layer too; auto: as "
                      "many as fit, where there is a GPU (extra `gpu`)."),
    click.option("-ncmoe", "--n-cpu-moe", type=click.IntRange(0), default=0, metavar="N",
                 help="Keep the experts of the first N layers in RAM."),
    click.option("-cmoe", "--cpu-moe", is_flag=True, help="Keep all experts in RAM."),
    click.option("-ot", "--override-tensor", multiple=True, metavar="PATTERN=CPU",
                 help="Keep the experts whose tensors match a regular expression in RAM: "
                      "`exps=CPU`."),
    click.option("-dev", "--device", metavar="GPU[,GPU...]",
                 help="GPUs to use, by number or name (see `gguf-hub doctor`); none: the CPU."),
    click.option("-sm", "--split-mode", type=click.Choice(["none", "layer", "row"]),
                 default="layer", show_default=True,
                 help="Use one GPU (none), or deal the layers to all of them; row is taken as "
                      "layer."),
    click.option("-ts", "--tensor-split", type=Shares(), default=None,
                 help="Shares of the layers for each GPU; default: by free memory."),
    click.option("-mg", "--main-gpu", type=click.IntRange(0), default=0, metavar="N",
                 help="GPU that `-sm none` uses."),
    click.option("--list-devices", is_flag=True, is_eager=True, expose_value=False,
                 callback=_list_devices, help="List the GPUs that can be used, and exit."),
)  # fmt: skip
"""Add the options that ``offload_request`` reads."""


def offload_request(options: dict[str, Any]) -> OffloadRequest:
    """Return what the options ask for.

    Raises:
        UsageError: A value can never be right.
    """
    from gguf_hub.api.offload import OffloadRequest
    from gguf_hub.run.model.settings import ALL_LAYERS

    n_layers, devices = options["gpu_layers"], options["device"]
    request = OffloadRequest(
        n_layers=n_layers,
        n_cpu_moe=ALL_LAYERS if options["cpu_moe"] else options["n_cpu_moe"],
        cpu_patterns=options["override_tensor"],
        devices=None if devices is None else _names(devices),
        split=options["tensor_split"] or (),
        mode=options["split_mode"],
        main_gpu=options["main_gpu"],
        label=_label(n_layers, devices),
    )
    request.check()
    return request


def _names(devices: str) -> tuple[str, ...]:
    names = tuple(filter(None, (name.strip() for name in devices.split(","))))
    return () if names in ((), ("none",)) else names


def _label(n_layers: int | None, devices: str | None) -> str:
    """Return the option that asks for a GPU."""
    from gguf_hub.run.model.settings import ALL_LAYERS

    if n_layers is None:
        return f"-dev {devices}"
    return f"-ngl {'all' if n_layers == ALL_LAYERS else n_layers}"


def gpu_settings(
    path: Path, settings: ModelSettings, options: dict[str, Any], progress: Progress
) -> GpuSettings:
    """Return what GPUs compute of a model; see ``decide_offload``."""
    from gguf_hub.api.offload import decide_offload

    return decide_offload(path, settings, offload_request(options), progress)

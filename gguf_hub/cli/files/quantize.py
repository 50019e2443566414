"""``gguf-hub quantize``: quantize a model, with llama-quantize's order of arguments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gguf_hub.cli.options import output_options

if TYPE_CHECKING:
    from gguf_hub.gguf.types import QuantType
    from gguf_hub.run.quants.plan import QuantizePlan


@click.command("quantize")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.argument("type_name", metavar="TYPE")
@click.option(
    "--recipe",
    type=click.Choice(["llama.cpp", "card"]),
    default="llama.cpp",
    show_default=True,
    help="Type mix: llama.cpp's current one, or that of the catalog's files (December 2023).",
)
@click.option(
    "--layout",
    type=click.Choice(["split", "merged"]),
    help="Expert layout: one tensor per expert or one for all; default: as in IN.",
)
@click.option("--output-tensor-type", metavar="TYPE", help="Type of output.weight.")
@click.option("--pure", is_flag=True, help="Use one type for all matrices.")
@click.option(
    "--requantize",
    is_flag=True,
    help="Also requantize quantized tensors to types of no fewer bits: loses quality, gains "
    "nothing.",
)
@click.option(
    "-t",
    "--threads",
    default=0,
    type=click.IntRange(0, 512),
    metavar="N",
    help="Threads; 0: one per physical core this process may use.",
)
@click.option("--dry-run", is_flag=True, help="Show each tensor's type and size; write nothing.")
@output_options
def command(
    source: Path,
    target: Path,
    type_name: str,
    recipe: str,
    layout: str | None,
    output_tensor_type: str | None,
    pure: bool,
    requantize: bool,
    threads: int,
    dry_run: bool,
    force: bool,
    no_progress: bool,
    as_json: bool,
) -> None:
    """Quantize a model.

    TYPE is F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q3_K_S, Q3_K_M, Q3_K_L, Q4_K_S, Q4_K_M,
    Q5_K_S, Q5_K_M or Q6_K. Norms and routers keep their type. OUT is written completely or not at
    all.
    """
    from gguf_hub.cli import console
    from gguf_hub.cli.files.outputs import check_output, report
    from gguf_hub.cli.run.opening import report_lost_pages
    from gguf_hub.run.quants.plan import plan_quantize
    from gguf_hub.run.quants.quantize import write_quantized
    from gguf_hub.run.quants.recipes import parse_file_type
    from gguf_hub.units import format_size

    plan = plan_quantize(
        source,
        parse_file_type(type_name),
        recipe=recipe,  # type: ignore[arg-type]
        layout=layout,  # type: ignore[arg-type]
        pure=pure,
        output_tensor_type=_tensor_type(output_tensor_type),
        requantize=requantize,
    )
    output = None
    if not dry_run:
        output = check_output(source, target, force=force)
        progress = console.ConsoleProgress(enabled=not no_progress)
        with report_lost_pages(f"`{source}`"):
            write_quantized(plan, output, n_threads=threads, progress=progress)
    if output is None and not as_json:
        _print_table(plan)
    size = f"{format_size(plan.size_bytes)}, {plan.bits_per_weight:.2f} bits per weight"
    before = format_size(plan.source_bytes)
    notes = [f"note: {note}" for note in plan.notes]
    notes.append(f"{'written' if output else 'would be'}: {size} (was {before})")
    report(_as_json(plan, output), notes, output, as_json=as_json)


def _tensor_type(name: str | None) -> QuantType | None:
    """Return the tensor type of ``--output-tensor-type``.

    Raises:
        UsageError: There is no such type to write.
    """
    from gguf_hub.errors import UsageError
    from gguf_hub.run.quants.recipes import BASE_TYPES

    types = {type.name: type for type in dict.fromkeys(BASE_TYPES.values())}
    if name is None or name.upper() in types:
        return types[name.upper()] if name else None
    raise UsageError(
        f"`--output-tensor-type`: `{name}` is not a tensor type",
        hint=f"one of {', '.join(types)}",
    )


def _as_json(plan: QuantizePlan, output: Path | None) -> dict[str, object]:
    return {
        "path": str(plan.source),
        "written": str(output) if output else None,
        "file_type": plan.file_type.name,
        "size_bytes": plan.size_bytes,
        "bits_per_weight": round(plan.bits_per_weight, 4),
        "notes": list(plan.notes),
        "tensors": [
            {
                "name": part.spec.name,
                "shape": list(part.spec.shape),
                "from": part.source_type.name,
                "to": part.spec.type.name,
                "wanted": part.mix_type.name,
                "size_bytes": part.size_bytes,
            }
            for part in plan.parts
        ],
    }


def _print_table(plan: QuantizePlan) -> None:
    from gguf_hub.cli import console
    from gguf_hub.units import format_size

    rows = [
        (
            part.spec.name,
            " x ".join(map(str, part.spec.shape)),
            part.source_type.name,
            part.spec.type.name if not part.is_copied else "",
            format_size(part.source_size_bytes),
            format_size(part.size_bytes),
        )
        for part in plan.parts
    ]
    align = ("left", "left", "left", "left", "right", "right")
    console.print_table(rows, ["Tensor", "Shape", "From", "To", "Size", "New size"], align=align)

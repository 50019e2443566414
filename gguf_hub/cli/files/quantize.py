"""``gguf-hub quantize``: quantize a model, with llama-quantize's order of arguments."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli.files.fitting import fit_options
from gguf_hub.cli.options import CONTEXT, output_options

if TYPE_CHECKING:
    from gguf_hub.cli.files.fitting import Fitted
    from gguf_hub.run.quants.imatrix import ImportanceMatrix
    from gguf_hub.run.quants.plan import QuantizePlan
    from gguf_hub.run.quants.recipes import Wishes

_FILE = click.Path(path_type=Path)


@click.command("quantize", context_settings=CONTEXT)
@click.argument("source", metavar="IN", type=_FILE)
@click.argument("target", metavar="OUT", type=_FILE, required=False)
@click.argument("type_name", metavar="TYPE", required=False)
@fit_options
@click.option(
    "--imatrix",
    "imatrix_path",
    type=_FILE,
    metavar="FILE",
    help="Importance matrix of the model (GGUF or .dat): errors count by it.",
)
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
@click.option(
    "--tensor-type",
    "tensor_types",
    multiple=True,
    metavar="REGEX=TYPE",
    help="Type of the tensors whose names match; repeat it, the first match counts.",
)
@click.option(
    "--tensor-type-file",
    type=_FILE,
    metavar="FILE",
    help="File of REGEX=TYPE, separated by blanks or lines.",
)
@click.option("--output-tensor-type", metavar="TYPE", help="Type of output.weight.")
@click.option("--token-embedding-type", metavar="TYPE", help="Type of the token embeddings.")
@click.option("--leave-output-tensor", is_flag=True, help="Keep output.weight as it is.")
@click.option("--pure", is_flag=True, help="Use one type for all matrices.")
@click.option(
    "--requantize",
    "--allow-requantize",
    is_flag=True,
    help="Also requantize quantized tensors to types of no fewer bits: loses quality, "
    "gains nothing.",
)
@click.option(
    "--keep-split",
    is_flag=True,
    help="Write as many shards as IN has: OUT-00001-of-0000N.gguf and so on.",
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
    source: Path, target: Path | None, type_name: str | None,
    dry_run: bool, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Quantize a model.

    TYPE is F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K, Q2_K_S, Q3_K_S, Q3_K_M, Q3_K_L, Q4_K_S,
    Q4_K_M, Q5_K_S, Q5_K_M, Q6_K, IQ1_S, IQ1_M, IQ2_XXS, IQ2_XS, IQ2_S, IQ2_M, IQ3_XXS, IQ3_XS,
    IQ3_S, IQ3_M, IQ4_NL, IQ4_XS, MXFP4_MOE, TQ1_0 or TQ2_0. Norms and routers keep their type. OUT
    is written completely or not at all.

    With --fit or --target-size each tensor gets a type of its own, so that the file fits and the
    loss is least. The model reads a --text for that, once with each group of tensors quantized
    alone; give an importance matrix as well. Measurements are kept: another size costs none.
    """
    from gguf_hub.cli.files.fitting import check_options, default_target, fit_file
    from gguf_hub.cli.files.outputs import report

    is_fitted = check_options(options)
    _check_arguments(target, type_name, is_fitted=is_fitted)
    wishes, imatrix = _wishes(options), _imatrix(options["imatrix_path"])
    target = target or default_target(source, options)
    fitted = None
    if is_fitted:
        check = partial(_checked_target, source=source, target=target, options=options)
        fitted = fit_file(source, options, wishes, imatrix, None if dry_run else check)
    plan = fitted.plan if fitted else _plan(source, type_name or "", options, wishes, imatrix)
    _warn_of_idle_patterns(plan, wishes)
    outputs = [] if dry_run else _write(plan, source, target, options)
    if dry_run and not as_json:
        _print_table(plan, fitted)
    notes = _notes(plan, fitted, is_written=bool(outputs))
    report(_as_json(plan, outputs, fitted), notes, outputs[0] if outputs else None, as_json=as_json)


def _check_arguments(target: Path | None, type_name: str | None, *, is_fitted: bool) -> None:
    """Refuse a missing argument, or one too many, as click does."""
    from gguf_hub.hub.download.quants import looks_like_quant

    if is_fitted and type_name is not None:
        raise click.UsageError("--fit and --target-size choose the types: leave TYPE out")
    if str(target) == "-":
        raise click.UsageError("OUT: expected a file, as a GGUF is not written to stdout")
    missing = "OUT" if target is None else "TYPE" if type_name is None else ""
    if missing == "TYPE" and looks_like_quant(str(target)):  # TYPE stands in place of OUT
        missing = "OUT"
    if missing and not is_fitted:
        raise click.UsageError(f"Missing argument '{missing}' (or --fit, or --target-size).")


def _plan(
    source: Path, type_name: str, options: dict[str, Any], wishes: Wishes,
    imatrix: ImportanceMatrix | None,
) -> QuantizePlan:  # fmt: skip
    from gguf_hub.run.quants.plan import plan_quantize
    from gguf_hub.run.quants.recipes import parse_file_type

    return plan_quantize(
        source,
        parse_file_type(type_name),
        recipe=options["recipe"],
        layout=options["layout"],
        wishes=wishes,
        imatrix=imatrix,
        requantize=options["requantize"],
        keeps_split=options["keep_split"],
    )


def _notes(plan: QuantizePlan, fitted: Fitted | None, *, is_written: bool) -> list[str]:
    from gguf_hub.units import format_size

    size = f"{format_size(plan.size_bytes)}, {plan.bits_per_weight:.2f} bits per weight"
    own = fitted.notes if fitted else ()
    notes = [f"note: {note}" for note in (*plan.notes, *own, *_missing(plan))]
    verb, before = "written" if is_written else "would be", format_size(plan.source_bytes)
    return [*notes, f"{verb}: {size} (was {before})"]


def _checked_target(
    plan: QuantizePlan, source: Path, target: Path, options: dict[str, Any]
) -> Path:
    """Return the file to write, or what shards are named after; refuse what cannot be written."""
    from gguf_hub.cli.files.outputs import check_output, check_outputs, files_of
    from gguf_hub.run.quants.quantize import targets_of

    inputs = [*files_of(source), *filter(None, [options["imatrix_path"], options["text_path"]])]
    if not plan.shards:
        return check_output(source, target, inputs, force=options["force"])
    check_outputs(targets_of(plan, target), inputs, force=options["force"])
    return target


def _write(plan: QuantizePlan, source: Path, target: Path, options: dict[str, Any]) -> list[Path]:
    """Carry out a plan; return the files that were written."""
    from gguf_hub.cli import console
    from gguf_hub.cli.run.opening import report_lost_pages
    from gguf_hub.run.quants.plan import require_imatrix
    from gguf_hub.run.quants.quantize import write_quantized

    require_imatrix(plan)
    target = _checked_target(plan, source, target, options)
    progress = console.ConsoleProgress(enabled=not options["no_progress"])
    with report_lost_pages(f"`{source}`"):
        return [*write_quantized(plan, target, n_threads=options["threads"], progress=progress)]


def _imatrix(path: Path | None) -> ImportanceMatrix | None:
    from gguf_hub.run.quants.imatrix_file import read_imatrix

    return read_imatrix(path) if path else None


def _wishes(options: dict[str, Any]) -> Wishes:
    """Return what the options want other than the mix says.

    Raises:
        UsageError: A type that is none, or a pattern that is none.
    """
    from gguf_hub.run.quants.recipes import Wishes, parse_tensor_type
    from gguf_hub.run.quants.tensor_types import parse_tensor_types, read_tensor_types

    by_name = {
        name: parse_tensor_type(options[name], "--" + name.replace("_", "-"))
        if options[name]
        else None
        for name in ("output_tensor_type", "token_embedding_type")
    }
    patterns = parse_tensor_types(options["tensor_types"], "--tensor-type")
    if options["tensor_type_file"]:
        patterns += read_tensor_types(options["tensor_type_file"])
    return Wishes(
        is_pure=options["pure"],
        output=by_name["output_tensor_type"],
        embeddings=by_name["token_embedding_type"],
        leaves_output=options["leave_output_tensor"],
        tensors=tuple(patterns),
    )


def _warn_of_idle_patterns(plan: QuantizePlan, wishes: Wishes) -> None:
    """Say which patterns are found in no name; a file of patterns may be for several models."""
    from gguf_hub.cli import console

    names = [part.spec.name for part in plan.parts]
    for pattern, type_ in wishes.tensors:
        if not any(map(pattern.search, names)):
            console.warn(f"`{pattern.pattern}={type_.name}` matches no tensor of `{plan.source}`")


def _missing(plan: QuantizePlan) -> list[str]:
    """Return what a plan cannot be carried out without."""
    lacking = [part for part in plan.parts if part.needs_imatrix and part.importance is None]
    if not lacking:
        return []
    return [
        f"this needs an importance matrix (`--imatrix`): {len(lacking):,} tensors, e.g. "
        f"`{lacking[0].spec.name}` as {lacking[0].spec.type.name}"
    ]


def _as_json(plan: QuantizePlan, outputs: list[Path], fitted: Fitted | None) -> dict[str, object]:
    return {
        "path": str(plan.source),
        "written": str(outputs[0]) if outputs else None,
        "shards": [str(path) for path in outputs] if plan.shards else None,
        "file_type": plan.file_type.name,
        "size_bytes": plan.size_bytes,
        "bits_per_weight": round(plan.bits_per_weight, 4),
        "notes": [*plan.notes, *(fitted.notes if fitted else ()), *_missing(plan)],
        "kl": fitted.kl if fitted else None,
        "tensors": [
            {
                "name": part.spec.name,
                "shape": list(part.spec.shape),
                "from": part.source_type.name,
                "to": part.spec.type.name,
                "wanted": part.mix_type.name,
                "size_bytes": part.size_bytes,
                "has_importance": part.importance is not None,
                "kl": fitted.kl_of.get(part.spec.name) if fitted else None,
            }
            for part in plan.parts
        ],
    }


def _print_table(plan: QuantizePlan, fitted: Fitted | None) -> None:
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
            *_loss_cells(fitted, part.spec.name),
        )
        for part in plan.parts
    ]
    headers = ["Tensor", "Shape", "From", "To", "Size", "New size"]
    if fitted:
        headers.append("KL divergence")
    align = ["left"] * 4 + ["right"] * (len(headers) - 4)
    console.print_table(rows, headers, align=align)


def _loss_cells(fitted: Fitted | None, name: str) -> list[str]:
    if fitted is None:
        return []
    return [f"{fitted.kl_of[name]:.2e}" if name in fitted.kl_of else ""]

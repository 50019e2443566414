"""``gguf-hub convert``: a Hugging Face checkpoint as a GGUF file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gguf_hub.cli.options import json_option

if TYPE_CHECKING:
    from gguf_hub.run.convert import Conversion


@click.command("convert")
@click.argument("folder", metavar="HF_DIR", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option(
    "--outtype",
    type=click.Choice(["auto", "f32", "f16", "bf16", "q8_0"], case_sensitive=False),
    default="auto",
    show_default=True,
    help="Output type; `auto` keeps the stored type.",
)
@click.option(
    "--layout",
    type=click.Choice(["merged", "split"]),
    default="merged",
    show_default=True,
    help="Expert layout; `split` is for programs of early 2024.",
)
@click.option("--no-vocab", is_flag=True, help="Leave out the vocabulary: token ids only, no text.")
@click.option("--vocab-only", is_flag=True, help="Write only the vocabulary.")
@click.option("--model-name", metavar="NAME", help="Model name; default: the folder's.")
@click.option("--dry-run", is_flag=True, help="Check everything except the weights; write nothing.")
@click.option("-f", "--force", is_flag=True, help="Overwrite OUT.")
@click.option("--no-progress", is_flag=True, help="Show no progress bar.")
@json_option
def command(
    folder: Path,
    target: Path,
    outtype: str,
    layout: str,
    no_vocab: bool,
    vocab_only: bool,
    model_name: str | None,
    dry_run: bool,
    force: bool,
    no_progress: bool,
    as_json: bool,
) -> None:
    """Convert a Hugging Face checkpoint to GGUF.

    HF_DIR contains config.json, *.safetensors and tokenizer.model of a Llama, Mistral or Mixtral
    model. OUT is a file, or a directory for a file named after the model; it is written completely
    or not at all, and every weight is checked. Needs the extra `convert`: pip install 'gguf-
    hub[convert]'.
    """
    from gguf_hub.cli import console
    from gguf_hub.cli.files.outputs import check_output
    from gguf_hub.run.convert import plan_conversion

    if no_vocab and vocab_only:
        raise click.UsageError("--no-vocab and --vocab-only leave nothing to write")
    plan = plan_conversion(
        folder,
        outtype=outtype,  # type: ignore[arg-type]
        layout=layout,  # type: ignore[arg-type]
        contents="weights" if no_vocab else "vocabulary" if vocab_only else "all",
        name=model_name,
    )
    if target.is_dir():
        kind = "vocab" if vocab_only else plan.type.name
        target = target / f"{folder.resolve().name}.{kind}.gguf"
    target = check_output(folder, target, _files_in(folder), force=force)
    for note in plan.notes:
        console.note(f"note: {note}")
    if not dry_run:
        plan.write(target, progress=console.ConsoleProgress(enabled=not no_progress))
    _report(plan, target, dry_run, as_json)


def _files_in(folder: Path) -> list[Path]:
    """Return the files of a checkpoint, none of which may be written over."""
    return [path for path in folder.iterdir() if path.is_file()]


def _report(plan: Conversion, target: Path, dry_run: bool, as_json: bool) -> None:
    """Tell what was written, or would be."""
    from gguf_hub.cli import console
    from gguf_hub.units import format_size

    if as_json:
        facts = {
            "path": str(target),
            "is_written": not dry_run,
            "size_bytes": plan.size_bytes,
            "type": plan.type.name if plan.tensors else None,
            "n_tensors": len(plan.tensors),
            "n_weights": plan.n_weights,
            "notes": list(plan.notes),
        }
        console.print_json(facts)
        return
    console.note(
        f"{'would be written' if dry_run else 'written'}: {len(plan.tensors)} tensors, "
        f"{format_size(plan.size_bytes)}"
    )
    if not dry_run:
        console.say(str(target))

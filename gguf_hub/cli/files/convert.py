"""``gguf-hub convert``: a Hugging Face checkpoint as a GGUF file."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any, Literal

import click

from gguf_hub.cli.options import layout_option, offline_option, output_options

if TYPE_CHECKING:
    from gguf_hub.errors import UsageError
    from gguf_hub.progress import Progress
    from gguf_hub.run.convert.conversion import Conversion


@click.command("convert")
@click.argument("source", metavar="HF_DIR|ORG/REPO")
@click.argument("target", metavar="[OUT]", type=click.Path(path_type=Path), default=Path())
@click.option(
    "--outtype",
    type=click.Choice(["auto", "f32", "f16", "bf16", "q8_0"], case_sensitive=False),
    default="auto",
    show_default=True,
    help="Output type; `auto` keeps the stored type.",
)
@layout_option
@click.option("--no-vocab", is_flag=True, help="Leave out the vocabulary: token ids only, no text.")
@click.option("--vocab-only", is_flag=True, help="Write only the vocabulary.")
@click.option(
    "--pre",
    metavar="NAME",
    help="Pre-tokenizer of a byte-pair vocabulary, as llama.cpp names it; default: found out.",
)
@click.option(
    "--merge-lora",
    "adapters",
    metavar="ADAPTER_DIR",
    multiple=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Add a LoRA adapter of PEFT to the weights; repeatable.",
)
@click.option(
    "--base",
    metavar="HF_DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="HF_DIR is a LoRA adapter of PEFT and this its model: write a GGUF adapter.",
)
@click.option("--model-name", metavar="NAME", help="Model name; default: the source's.")
@click.option("--revision", metavar="REV", help="Branch, tag or commit of the repository.")
@click.option("--token", help="Hugging Face token (also HF_TOKEN).")
@click.option("-y", "--yes", is_flag=True, help="Download without a confirmation prompt.")
@offline_option
@click.option("--dry-run", is_flag=True, help="Check everything except the weights; write nothing.")
@output_options
def command(
    source: str, target: Path, dry_run: bool, no_progress: bool, as_json: bool, **options: Any
) -> None:
    """Convert a Hugging Face checkpoint to GGUF.

    HF_DIR contains config.json, *.safetensors and the tokenizer of a model, quantised by GPTQ, AWQ
    or the like or not; those of ORG/REPO are downloaded and verified first. OUT is a file, or a
    directory (default: this one) for a file named after the model; it is written completely or not
    at all, and every weight is checked. Needs the extra `convert`: pip
    install 'gguf-hub[convert]'.
    """
    from gguf_hub.cli import console
    from gguf_hub.cli.files.outputs import check_output

    _check_options(options)
    progress = console.ConsoleProgress(enabled=not no_progress)
    folder, name = _folder_of(
        source, options["revision"], options["token"], options["yes"], progress
    )
    plan = _plan_of(folder, name, options)
    if target.is_dir():
        kind = "vocab" if options["vocab_only"] else plan.type.name
        target = target / f"{name}.{kind}.gguf"
    inputs = [path for path in folder.iterdir() if path.is_file()]
    target = check_output(folder, target, inputs, force=options["force"])
    for note in plan.notes:
        console.note(f"note: {note}")
    if not dry_run:
        plan.write(target, progress=progress)
    _report(plan, target, is_written=not dry_run, as_json=as_json)


def _check_options(options: dict[str, Any]) -> None:
    """Refuse options that exclude each other before anything is downloaded."""
    if options["no_vocab"] and options["vocab_only"]:
        raise click.UsageError("--no-vocab and --vocab-only leave nothing to write")
    if options["base"] and any(options[key] for key in ("adapters", "no_vocab", "vocab_only")):
        raise click.UsageError("--base writes an adapter, which has no model and no vocabulary")


def _plan_of(folder: Path, name: str, options: dict[str, Any]) -> Conversion:
    """Return how a checkpoint, or an adapter, becomes a GGUF file."""
    from gguf_hub.errors import CheckpointError
    from gguf_hub.run.convert import plan_adapter, plan_conversion
    from gguf_hub.run.convert.lora import is_adapter

    name = options["model_name"] or name
    if options["base"]:
        return plan_adapter(folder, options["base"], outtype=options["outtype"], name=name)
    if is_adapter(folder):
        raise CheckpointError(
            folder,
            ["is a LoRA adapter, not a model"],
            hint="--base HF_DIR writes it as a GGUF adapter; `gguf-hub convert HF_DIR OUT "
            "--merge-lora ADAPTER_DIR` merges it into its model",
        )
    contents: Literal["all", "weights", "vocabulary"] = "all"
    if options["no_vocab"] or options["vocab_only"]:
        contents = "weights" if options["no_vocab"] else "vocabulary"
    return plan_conversion(
        folder,
        outtype=options["outtype"],
        layout=options["layout"],
        contents=contents,
        name=name,
        pre=options["pre"],
        adapters=options["adapters"],
    )


def _report(plan: Conversion, target: Path, *, is_written: bool, as_json: bool) -> None:
    from gguf_hub.cli.files.outputs import report
    from gguf_hub.units import format_size

    data = {
        "path": str(target),
        "is_written": is_written,
        "size_bytes": plan.size_bytes,
        "type": plan.type.name if plan.tensors else None,
        "n_tensors": len(plan.tensors),
        "n_weights": plan.n_weights,
        "notes": list(plan.notes),
    }
    note = (
        f"{'written' if is_written else 'would be written'}: {len(plan.tensors)} tensors, "
        f"{format_size(plan.size_bytes)}"
    )
    report(data, [note], target if is_written else None, as_json=as_json)


def _not_a_checkpoint(path: Path) -> UsageError:
    from gguf_hub.errors import UsageError
    from gguf_hub.gguf.format import MAGIC

    with path.open("rb") as file:
        is_gguf = file.read(len(MAGIC)) == MAGIC
    if is_gguf:
        hint = f"`gguf-hub quantize {quote(str(path))} OUT TYPE` changes the type of its weights"
        return UsageError(f"`{path}` is a GGUF already: there is nothing to convert", hint=hint)
    return UsageError(
        f"`{path}` is a file: expected a folder with config.json and *.safetensors",
        hint=f"its folder is `{path.parent}`",
    )


def _folder_of(
    source: str, revision: str | None, token: str | None, assume_yes: bool, progress: Progress
) -> tuple[Path, str]:
    """Return the folder of a checkpoint, downloaded if it is a repository's, and its name."""
    from gguf_hub.cli.checkpoints import fetch_checkpoint
    from gguf_hub.cli.models import make_resolver
    from gguf_hub.hub.download.refs import Target
    from gguf_hub.paths import expand_user

    path = expand_user(source)
    if path.is_file():
        raise _not_a_checkpoint(path)
    if path.is_dir() or source.startswith((".", "/", "~")):
        return path, path.resolve().name
    resolver = make_resolver(token=token, progress=progress, assume_yes=assume_yes)
    target = resolver.target(source, revision=revision, is_remote=True)
    assert isinstance(target, Target)
    return fetch_checkpoint(resolver, target), target.repo_id.rpartition("/")[2]

"""``gguf-hub imatrix``: make, merge and show importance matrices, as llama-imatrix does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from gguf_hub.cli.options import (
    CONTEXT,
    batch_size_option,
    catalog_option,
    json_option,
    offline_option,
    require_at_least,
    threads_option,
)
from gguf_hub.cli.source import download_options

_FILE = click.Path(path_type=Path)


@click.command("imatrix", context_settings=CONTEXT)
@click.argument("model", required=False)
@click.option("-m", "--model", "model_option", metavar="MODEL", help="Same as MODEL.")
@click.option(
    "-f", "--text", "--file", "text_path", type=_FILE, metavar="FILE", help="Text file (UTF-8)."
)
@click.option(
    "-o",
    "--output",
    "--output-file",
    "output",
    type=_FILE,
    metavar="FILE",
    default=Path("imatrix.gguf"),
    show_default=True,
    help="File to write.",
)
@click.option(
    "-c", "--ctx-size", default=512, show_default=True, metavar="N", help="Tokens per chunk."
)
@batch_size_option
@threads_option
@click.option("--chunks", default=-1, metavar="N", help="Number of chunks; default: all.")
@click.option(
    "--chunk", "--from-chunk", "from_chunk", default=0, metavar="N", help="Skip the first N chunks."
)
@click.option(
    "-ofreq",
    "--output-frequency",
    default=10,
    show_default=True,
    metavar="N",
    help="Write FILE after every N chunks; the same command resumes from there.",
)
@click.option(
    "--in-file",
    "in_files",
    multiple=True,
    metavar="FILE",
    help="Add an importance matrix (GGUF or .dat); repeat it, or separate by commas.",
)
@click.option("--process-output", is_flag=True, help="Include the output matrix.")
@click.option("--no-ppl", is_flag=True, help="Do not compute perplexity.")
@click.option("--parse-special", is_flag=True, help="Parse control tokens in the text.")
@click.option(
    "--show-statistics",
    "--show",
    "shows",
    is_flag=True,
    help="Show statistics of each tensor, of --in-file or of what was made.",
)
@click.option(
    "--mmap/--no-mmap",
    default=True,
    help="Memory-map the model (default), or read it into memory first.",
)
@download_options
@click.option("--force", is_flag=True, help="Overwrite the file to write.")
@click.option("--no-progress", is_flag=True, help="Show no progress bar.")
@offline_option
@catalog_option
@json_option
def command(model: str | None, model_option: str | None, as_json: bool, **options: Any) -> None:
    """Make, merge and show importance matrices.

    MODEL reads the text; how much each input of its matrices was used is written in llama.cpp's
    format, for `quantize --imatrix`. Without MODEL, the --in-file matrices are merged, or shown
    with --show-statistics.
    """
    from gguf_hub.cli.console import ConsoleProgress
    from gguf_hub.cli.measure import imatrix_output, imatrix_run
    from gguf_hub.cli.run.opening import NO_MMAP, report_lost_pages

    argument = _check_options(model, model_option, options)
    progress = ConsoleProgress(enabled=not options["no_progress"])
    if not argument and options["shows"]:
        imatrix_output.report(imatrix_run.read_one(options), None, None, options, as_json=as_json)
        return
    with (
        report_lost_pages("a model file", NO_MMAP),
        imatrix_run.ImatrixRun(options, progress) as run,
    ):
        measurement = run.measure(argument) if argument else run.merge()
    imatrix_output.report(
        measurement.matrix, measurement.perplexity, options["output"], options, as_json=as_json
    )


def _check_options(model: str | None, model_option: str | None, options: dict[str, Any]) -> str:
    """Return the model argument, empty for none; refuse what cannot be before any work."""
    if model and model_option:
        raise click.UsageError("expected one MODEL, as an argument or with -m")
    argument = model or model_option or ""
    options["in_files"] = [
        Path(part) for value in options["in_files"] for part in value.split(",") if part
    ]
    if bool(argument) != bool(options["text_path"]):
        missing = "a text: --text FILE" if argument else "a MODEL that reads the text"
        raise click.UsageError(f"expected {missing}")
    if not argument and not options["in_files"]:
        raise click.UsageError("expected MODEL and --text FILE, or --in-file FILE")
    require_at_least(options, {"ctx_size": 1, "from_chunk": 0, "output_frequency": 0})
    return argument

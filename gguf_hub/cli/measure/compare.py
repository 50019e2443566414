"""``gguf-hub compare``: several quants of one model on one text, in one table."""

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
from gguf_hub.cli.run.offload import offload_request
from gguf_hub.cli.run.opening import opening_options
from gguf_hub.cli.run.rope import rope_change, rope_options
from gguf_hub.cli.source import download_options

_FILE = click.Path(path_type=Path)


@click.command("compare", context_settings=CONTEXT)
@click.argument("models", metavar="BASE MODEL...", nargs=-1)
@click.option(
    "-f", "--text", "--file", "text_path", type=_FILE, metavar="FILE", help="Text file (UTF-8)."
)
@click.option(
    "-c", "--ctx-size", default=512, show_default=True, metavar="N", help="Tokens per chunk."
)
@batch_size_option
@threads_option
@click.option("--chunks", default=-1, metavar="N", help="Number of chunks; default: all.")
@click.option(
    "--kl-divergence-base",
    "logits_path",
    type=_FILE,
    metavar="FILE",
    help="Keep BASE's logits in FILE; if it exists, they are the base, and every "
    "argument is compared with them.",
)
@click.option(
    "--plot", type=_FILE, metavar="FILE", help="Plot KL divergence against size (extra `plot`)."
)
@click.option("--dark", is_flag=True, help="Plot on a dark background.")
@opening_options
@rope_options
@download_options
@click.option("--no-progress", is_flag=True, help="Show no progress bar.")
@offline_option
@catalog_option
@json_option
def command(models: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Compare quants: perplexity, KL divergence, size and speed.

    BASE, the best of them, reads the text first; the others are measured against its logits, with
    how often the top token is the same. One model is in memory at a time.
    """
    from gguf_hub.cli.console import ConsoleProgress
    from gguf_hub.cli.measure.compare_output import draw, report
    from gguf_hub.cli.measure.comparing import compare
    from gguf_hub.cli.run.opening import NO_MMAP, report_lost_pages

    _check_options(models, options)
    progress = ConsoleProgress(enabled=not options["no_progress"])
    with report_lost_pages("a model file", NO_MMAP):
        rows = compare(models, options, progress)
    plot = None
    try:
        if options["plot"]:
            draw(rows, options["plot"], is_dark=options["dark"])
            plot = options["plot"]
    finally:
        report(rows, plot, as_json=as_json)  # what was measured is not lost with the plot


def _check_options(models: tuple[str, ...], options: dict[str, Any]) -> None:
    """Refuse invalid options before anything is downloaded."""
    has_base = options["logits_path"] and options["logits_path"].exists()
    if len(models) < (1 if has_base else 2):
        raise click.UsageError("expected two models or more, the base first")
    if not options["text_path"] and not has_base:
        raise click.UsageError("expected a text: --text FILE")
    if options["text_path"] and str(options["text_path"]) == "-":
        raise click.UsageError("--text -: expected a file, which is read for each model")
    require_at_least(options, {"ctx_size": 1})
    rope_change(options)
    offload_request(options)
    if options["plot"]:
        from gguf_hub.cli.pick.pick_plot import check_plot

        check_plot(options["plot"])
    if options["logits_path"]:
        from gguf_hub.run.perplexity.logits_file import require_replaceable

        require_replaceable(options["logits_path"])

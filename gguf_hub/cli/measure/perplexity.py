"""``gguf-hub perplexity``: perplexity of a text, and KL divergence from another model."""

from __future__ import annotations

import time
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


@click.command("perplexity", context_settings=CONTEXT)
@click.argument("model", required=False)
@click.option("-m", "--model", "model_option", metavar="MODEL", help="Same as MODEL.")
@click.option(
    "-f",
    "--text",
    "--file",
    "text_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Text file (UTF-8).",
)
@click.option(
    "-c", "--ctx-size", default=512, show_default=True, metavar="N", help="Tokens per chunk."
)
@batch_size_option
@threads_option
@click.option("--chunks", default=-1, metavar="N", help="Number of chunks; default: all.")
@click.option("--base", metavar="MODEL", help="Compare with this model; both are loaded.")
@click.option(
    "--kl-divergence-base",
    "logits_path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write MODEL's logits to FILE (llama.cpp's format); with --kl-divergence, read them.",
)
@click.option(
    "--kl-divergence", is_flag=True, help="Compare with the logits in --kl-divergence-base."
)
@opening_options
@rope_options
@download_options
@click.option("--no-progress", is_flag=True, help="Show no progress bar.")
@offline_option
@catalog_option
@json_option
def command(model: str | None, model_option: str | None, as_json: bool, **options: Any) -> None:
    """Measure perplexity and KL divergence.

    As llama.cpp's llama-perplexity does: in chunks of -c tokens, of which the second half is
    scored. With --base or saved logits, also reports KL divergence and how often the top token is
    the same.
    """
    from gguf_hub.cli.console import ConsoleProgress
    from gguf_hub.cli.measure.measuring import Measuring
    from gguf_hub.cli.measure.perplexity_output import report
    from gguf_hub.cli.run.opening import NO_MMAP, report_lost_pages

    argument = _check_options(model, model_option, options)
    progress = ConsoleProgress(enabled=not options["no_progress"])
    start_time = time.perf_counter()
    with report_lost_pages("a model file", NO_MMAP), Measuring(options, progress) as measuring:
        result = measuring.run(argument)
    report(argument, result, time.perf_counter() - start_time, as_json=as_json)


def _check_options(model: str | None, model_option: str | None, options: dict[str, Any]) -> str:
    """Return the model argument; refuse invalid options before anything is downloaded."""
    if bool(model) == bool(model_option):
        raise click.UsageError("expected one MODEL, as an argument or with -m")
    if options["base"] and (options["kl_divergence"] or options["logits_path"]):
        raise click.UsageError("--base and --kl-divergence-base exclude each other")
    if options["kl_divergence"] and not options["logits_path"]:
        raise click.UsageError("--kl-divergence needs --kl-divergence-base FILE, or use --base")
    if not options["text_path"] and not options["kl_divergence"]:
        raise click.UsageError("expected a text: --text FILE")
    require_at_least(options, {"ctx_size": 1})
    rope_change(options)
    offload_request(options)
    if options["logits_path"] and not options["kl_divergence"]:
        from gguf_hub.run.perplexity.logits_file import require_replaceable

        require_replaceable(options["logits_path"])
    return model or model_option or ""

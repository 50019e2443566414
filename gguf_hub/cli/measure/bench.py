"""``gguf-hub bench``: how fast a model runs on this machine, and how fast it could."""

from __future__ import annotations

from typing import Any

import click

from gguf_hub.cli.options import (
    CONTEXT,
    batch_size_option,
    catalog_option,
    json_option,
    require_at_least,
)
from gguf_hub.cli.run.clustering import check_cluster, cluster_option
from gguf_hub.cli.run.offload import offload_request
from gguf_hub.cli.run.opening import opening_options
from gguf_hub.cli.source import download_options, fetch_argument


class Threads(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """One or several numbers of threads: ``2`` or ``1,2,4``."""

    name = "threads"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        """Return the numbers in their order."""
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(int(part) for part in str(value).split(","))
        except ValueError:
            self.fail(f"`{value}`: expected numbers, as in 2 or 1,2,4", param, ctx)
        if min(numbers) < 0:
            self.fail(f"{value}: expected 0 or more", param, ctx)
        return numbers


@click.command("bench", context_settings=CONTEXT)
@click.argument("model", required=False)
@click.option("-m", "--model", "model_option", metavar="MODEL", help="Same as MODEL.")
@click.option(
    "-p", "--n-prompt", default=512, show_default=True, metavar="N", help="Prompt tokens."
)
@click.option(
    "-n", "--n-gen", default=128, show_default=True, metavar="N", help="Tokens to generate."
)
@click.option(
    "-d",
    "--n-depth",
    default=0,
    show_default=True,
    metavar="N",
    help="Tokens in the cache before each test.",
)
@click.option(
    "-t",
    "--threads",
    type=Threads(),
    default="0",
    metavar="N[,N...]",
    help="Threads, or a comma-separated list; 0: as many physical cores as help.",
)
@click.option(
    "-r",
    "--repetitions",
    default=5,
    show_default=True,
    metavar="N",
    help="Repetitions of each test.",
)
@batch_size_option
@cluster_option
@opening_options
@download_options
@click.option("--no-progress", is_flag=True, help="Show no progress bar.")
@click.option("--markdown", is_flag=True, help="Print a Markdown table.")
@catalog_option
@json_option
def command(
    model: str | None, model_option: str | None, as_json: bool, markdown: bool, **options: Any
) -> None:
    """Benchmark a model on this machine.

    As llama-bench does: a prompt of -p tokens, then -n generated tokens, each test after one warm-
    up run. Also shows the bytes read per token (active experts only) and the share of this
    machine's memory bandwidth.
    """
    from gguf_hub.cli.console import ConsoleProgress
    from gguf_hub.cli.measure.bench_output import report
    from gguf_hub.cli.measure.benching import bench

    _check_options(model, model_option, options)
    progress = ConsoleProgress(enabled=not options["no_progress"])
    path = fetch_argument(model or model_option, options, progress)
    output_format = "json" if as_json else "markdown" if markdown else "text"
    report(bench(path, options, progress), output_format)


def _check_options(model: str | None, model_option: str | None, options: dict[str, Any]) -> None:
    """Refuse invalid options before anything is downloaded."""
    if model and model_option:
        raise click.UsageError("MODEL is given twice, as an argument and with -m")
    minimums = {"n_prompt": 0, "n_gen": 0, "n_depth": 0, "repetitions": 1}
    require_at_least(options, minimums)
    if not options["n_prompt"] and not options["n_gen"]:
        raise click.UsageError("-p 0 -n 0: nothing to measure")
    offload_request(options)
    check_cluster(options)

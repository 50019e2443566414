"""The MODEL argument, and the options for its source."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from gguf_hub.cli.options import catalog_option, offline_option, together
from gguf_hub.errors import UsageError

source_flags = together(
    click.option("-m", "--model", "model_option", metavar="MODEL", help="Same as MODEL."),
    click.option(
        "-hf",
        "-hfr",
        "--hf-repo",
        metavar="ORG/REPO[:QUANT]",
        help="MODEL as a Hugging Face repository.",
    ),
    click.option("-mu", "--model-url", metavar="URL", help="MODEL as a link to a file of the hub."),
    click.option("-hff", "--hf-file", metavar="FILE", help="File in that repository."),
    click.option("--revision", metavar="REV", help="Branch, tag or commit of the repository."),
    click.option(
        "-hft",
        "--hf-token",
        "--token",
        "token",
        metavar="TOKEN",
        help="Hugging Face token (also HF_TOKEN).",
    ),
    click.option(
        "-y", "--yes", is_flag=True, help="Download and convert without a confirmation prompt."
    ),
    offline_option,
    catalog_option,
)
"""Add the options that ``fetch_model`` reads."""
download_options = together(
    click.option("--revision", metavar="REV", help="Branch, tag or commit of the repository."),
    click.option("--token", metavar="TOKEN", help="Hugging Face token (also HF_TOKEN)."),
    click.option("-y", "--yes", is_flag=True, help="Download without a confirmation prompt."),
)
"""Add the options that ``fetch_argument`` reads, without ``catalog_option``."""
source_options = together(click.argument("model", required=False), source_flags)
"""Add MODEL, too."""


def model_argument(options: dict[str, Any]) -> str | None:
    """Return the model argument of the command line, if any.

    Raises:
        UsageError: There are two.
    """
    if options["model"] and options["model_option"]:
        raise UsageError(
            "MODEL is given twice, as an argument and with -m",
            hint="with -m, -p gives the prompt of `run`",
        )
    argument: str | None = options["model"] or options["model_option"]
    if argument and options["model_url"]:
        raise UsageError("MODEL is given twice, as `-mu` and by another name",
                         hint="drop one of them")  # fmt: skip
    argument = argument or options["model_url"]
    return _hub_link(options["hf_repo"], options["hf_file"], argument)


def _hub_link(repo: str | None, file: str | None, argument: str | None) -> str | None:
    """Return the link of -hf and -hff, or else the argument."""
    if file and not repo:
        raise click.UsageError("-hff names a file of the repository that -hf names: -hf is missing")
    if repo and argument:
        raise click.UsageError(f"MODEL is given twice, as `{argument}` and with -hf")
    if not repo:
        return argument
    # a link, as -hf never means a local file of that name
    return f"hf://{repo.partition(':')[0]}/{file}" if file else f"hf://{repo}"


def fetch_model(options: dict[str, Any], progress: Any, n_ctx: int = 0) -> Path:
    """Return the model file, downloaded first if it is missing.

    Args:
        options: Those of ``source_options``.
        progress: Notified about the download.
        n_ctx: Context that a picked quant must fit; 0 for the default.

    Raises:
        GgufHubError: There is none, or the download failed.
    """
    return fetch_argument(model_argument(options), options, progress, n_ctx)


def fetch_argument(
    argument: str | None, options: Mapping[str, Any], progress: Any, n_ctx: int = 0
) -> Path:
    """Return the file of a model argument, downloaded first if it is missing.

    Args:
        argument: Names it; None for the quant that fits this machine.
        options: Those of ``download_options``, and ``catalog_option``.
        progress: Notified about the download.
        n_ctx: As in ``fetch_model``.

    Raises:
        GgufHubError: There is none, or the download failed.
    """
    from gguf_hub.cli.models import DEFAULT_N_CTX, resolve_model

    return resolve_model(
        argument,
        catalog_path=options["catalog_path"],
        token=options["token"],
        revision=options["revision"],
        progress=progress,
        assume_yes=options["yes"],
        n_ctx=n_ctx or DEFAULT_N_CTX,
    )

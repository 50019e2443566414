"""Opening a model: the options of memory and cache, for every command that computes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli.options import together
from gguf_hub.cli.run.adapters import adapter_options, adapters_of
from gguf_hub.cli.run.offload import offload_options
from gguf_hub.gguf.memory.cache import CACHE_TYPES
from gguf_hub.progress import SILENT, Progress

if TYPE_CHECKING:
    from gguf_hub.run.generation.engine import Drafter
    from gguf_hub.run.generation.model_drafter import DraftSettings
    from gguf_hub.run.model.settings import ModelSettings


class CacheType(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """A type in any case; click's own choice would show dashes for underscores here."""

    name = "|".join(CACHE_TYPES).lower()

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return what the help shows, as for click's own choices."""
        return f"[{self.name}]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the type in lower case."""
        name = str(value).lower()
        if name not in self.name.split("|"):
            *others, last = self.name.split("|")
            self.fail(f"`{value}`: expected {', '.join(others)} or {last}", param, ctx)
        return name


_TYPES = CacheType()
opening_options = together(
    click.option("-ctk", "--cache-type-k", type=_TYPES, default="f16", help="K cache data type."),
    click.option("-ctv", "--cache-type-v", type=_TYPES, default="f16", help="V cache data type."),
    click.option(
        "--override-kv",
        multiple=True,
        metavar="KEY=TYPE:VALUE",
        help="Read a key of the metadata as this value, of type int, float, bool or str; commas "
        "separate several.",
    ),
    click.option(
        "--swa-full",
        is_flag=True,
        help="Full-size K/V cache in layers with a sliding window, too.",
    ),
    click.option("--mlock", is_flag=True, help="Lock all weights in RAM."),
    click.option(
        "--mlock-dense",
        is_flag=True,
        help="Lock the weights that every token reads in RAM, not the experts.",
    ),
    click.option(
        "--mmap/--no-mmap",
        default=True,
        help="Memory-map the file (default), or read it into memory first.",
    ),
    adapter_options,
    offload_options,
)
"""Add the options that ``model_settings`` reads."""

draft_options = together(
    click.option(
        "--lookup",
        type=click.IntRange(0),
        default=0,
        show_default=True,
        metavar="N",
        help="Prompt lookup decoding: draft up to N tokens from the text so far and check them in "
        "one pass.",
    ),
    click.option(
        "-md",
        "--model-draft",
        "--spec-draft-model",
        "model_draft",
        metavar="MODEL",
        help="Draft with this smaller model of the same vocabulary, named as MODEL is.",
    ),
    click.option(
        "-hfd", "-hfrd", "--hf-repo-draft", "--spec-draft-hf", "hf_repo_draft",
        metavar="ORG/REPO[:QUANT]", help="Draft with a model of this Hugging Face repository.",
    ),
    click.option(
        "--draft-max", "--draft", "--draft-n", "--spec-draft-n-max", "draft_max",
        type=click.IntRange(0), default=16, metavar="N", show_default=True,
        help="Maximum tokens of a draft; fewer where fewer pay.",
    ),
    click.option(
        "--draft-min", "--draft-n-min", "--spec-draft-n-min", "draft_min",
        type=click.IntRange(0), default=0, metavar="N", show_default=True,
        help="Minimum tokens of a draft.",
    ),
    click.option(
        "--draft-p-min", "--spec-draft-p-min", "draft_p_min", type=click.FloatRange(0, 1),
        default=0.75, metavar="P", show_default=True,
        help="How likely the draft model's likeliest token must be for the draft to go on.",
    ),
)  # fmt: skip
"""Add the options that ``check_drafts``, ``drafter_of`` and ``draft_settings`` read."""


def model_settings(
    options: dict[str, Any], path: Path, progress: Progress = SILENT, **more: Any
) -> ModelSettings:
    """Return the model settings of the options.

    Args:
        options: Those of ``opening_options`` and ``rope_options``, ``batch_size`` and ``threads``.
        path: The model.
        progress: Notified of what GPUs compute.
        more: Other settings of ``ModelSettings``.
    """
    from gguf_hub.cli.run.offload import gpu_settings
    from gguf_hub.cli.run.rope import rope_change
    from gguf_hub.gguf.overrides import parse_overrides
    from gguf_hub.run.model.settings import ModelSettings

    settings = ModelSettings(
        n_batch=options["batch_size"],
        n_threads=max(0, options["threads"]),
        key_type=options["cache_type_k"].upper(),
        value_type=options["cache_type_v"].upper(),
        is_mapped=options["mmap"],
        lock="all" if options["mlock"] else "dense" if options["mlock_dense"] else "none",
        rope=rope_change(options),
        swa_full=options["swa_full"] or options.get("prompt_cache") is not None,
        overrides=parse_overrides(options["override_kv"]) if options["override_kv"] else (),
        adapters=adapters_of(options),
        **more,
    )
    if options.get("cluster") is not None:  # machines of a cluster compute on their CPUs
        return settings
    return replace(settings, gpu=gpu_settings(path, settings, options, progress))


def n_ctx_option(options: Mapping[str, Any]) -> int | None:
    """Return the context that was asked for; None where it is the default's."""
    source = click.get_current_context().get_parameter_source("ctx_size")
    is_default = source is not None and source.name == "DEFAULT"
    return None if is_default else int(options["ctx_size"])


def n_ctx_within(path: Path, n_ctx: int) -> int:
    """Return a context, or the one that a model was trained on, if that is shorter."""
    from gguf_hub.gguf.hparams import HyperParameters
    from gguf_hub.gguf.shards import open_gguf

    with open_gguf(path) as file:
        trained = file.hparams.get(HyperParameters.n_ctx_train, 0)
    return min(n_ctx, trained or n_ctx)


def check_drafts(options: Mapping[str, Any]) -> None:
    """Refuse drafts that contradict each other, before anything is downloaded."""
    if draft_argument(options) and options["lookup"]:
        raise click.UsageError("--lookup and --model-draft both draft tokens: choose one")
    most = options["lookup"] or options["draft_max"]
    if options["draft_min"] > most:
        raise click.UsageError(
            f"--draft-min {options['draft_min']}: expected 0 to {most}, the maximum of a draft"
        )


def draft_argument(options: Mapping[str, Any]) -> str | None:
    """Return what names the draft model, if any.

    Raises:
        UsageError: Two flags do.
    """
    argument: str | None = options["model_draft"]
    repo: str | None = options.get("hf_repo_draft")
    if argument and repo:
        raise click.UsageError("-md and -hfd both name a draft model: choose one")
    return f"hf://{repo}" if repo else argument


def drafter_of(options: Mapping[str, Any]) -> Drafter | None:
    """Return the drafter of ``--lookup``."""
    from gguf_hub.run.generation.lookup import PromptLookup

    if not options["lookup"]:
        return None
    return PromptLookup(options["lookup"], n_min=options["draft_min"])


def draft_settings(options: Mapping[str, Any], progress: Progress = SILENT) -> DraftSettings:
    """Return the settings of a draft model, downloaded first if it is missing."""
    from gguf_hub.cli.models import resolve_model
    from gguf_hub.run.generation.model_drafter import DraftSettings

    path = None
    argument = draft_argument(options)
    if argument and options["draft_max"]:
        path = resolve_model(
            argument, catalog_path=options["catalog_path"],
            token=options.get("token"),  # a process of the router has none: its path is a file
            progress=progress, assume_yes=options["yes"],
        )  # fmt: skip
    return DraftSettings(path, options["draft_max"], options["draft_min"], options["draft_p_min"])


NO_MMAP = "; `--no-mmap` reads all of it first"


def report_lost_pages(name: str, hint: str = "") -> contextlib.AbstractContextManager[None]:
    """Within the block, exit with a message if a memory-mapped file loses pages while it is read.

    Pages that are lost between two passes raise an error (``GgufFile.check_size``).
    """
    from gguf_hub.run.kernels.build.bus_error import report_bus_errors

    return report_bus_errors(
        f"error: {name} cannot be read any more: it has become shorter, or its disk fails\n\n"
        f"hint: put another file in its place with `mv`, not over it with `cp`{hint}"
    )

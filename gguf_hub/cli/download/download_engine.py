"""Transfer options of ``gguf-hub download``, and the backend that they select."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli import console
from gguf_hub.cli.options import together

if TYPE_CHECKING:
    from gguf_hub.hub.download.transfer import TransferBackend


class Rate(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """Bytes per second: ``10MB/s``, ``10MB``, ``500k``."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return bytes per second.

        Raises:
            UsageError: The text is not a rate, or it is 0.
        """
        from gguf_hub.errors import UsageError
        from gguf_hub.units import parse_size

        text = str(value)
        bytes_per_s = parse_size(text[:-2] if text.lower().endswith("/s") else text)
        if bytes_per_s < 1:
            raise UsageError(f"`--limit-rate {text}`: expected at least one byte per second")
        return bytes_per_s


engine_options = together(
    click.option(
        "--engine",
        type=click.Choice(["auto", "ranges", "xet", "hf-transfer"]),
        default="auto",
        show_default=True,
        help="Transfer engine; only `ranges` (auto) resumes, repairs and limits the rate.",
    ),
    click.option(
        "--connections",
        type=click.IntRange(1, 64),
        default=8,
        show_default=True,
        help="Total number of connections.",
    ),
    click.option(
        "--max-workers",
        type=click.IntRange(1, 64),
        default=2,
        show_default=True,
        help="Files downloaded at once; they share the connections.",
    ),
    click.option("--limit-rate", type=Rate(), metavar="RATE", help="Maximum rate, e.g. 10MB/s."),
    click.option(
        "--timeout",
        "timeout_s",
        type=click.FloatRange(0.1),
        metavar="SECONDS",
        help="How long a server may be silent.  [default: 10]",
    ),
    click.option(
        "--force",
        "is_forced",
        is_flag=True,
        help="Download despite too little space or an invalid GGUF, and overwrite other files.",
    ),
)
"""Add the transfer options."""


def backend_for(options: dict[str, Any], n_files: int) -> TransferBackend:
    """Return the transfer backend.

    Args:
        options: Those of the command.
        n_files: Number of files to download.

    Raises:
        UsageError: The engine is not installed, or does not support an option.
    """
    from gguf_hub.errors import UsageError
    from gguf_hub.hub.download.engine import Settings
    from gguf_hub.hub.download.external import HfTransferBackend, XetBackend
    from gguf_hub.hub.download.limits import RateLimit
    from gguf_hub.hub.download.transfer import RangeBackend

    engine = _choose_engine(options["engine"], limit_rate=options["limit_rate"])
    n_parallel = max(min(options["max_workers"], n_files), 1)
    connections = max(options["connections"] // n_parallel, 1)
    if engine != "ranges" and options["limit_rate"]:
        raise UsageError(
            f"the engine `{engine}` does not support --limit-rate", hint="drop --engine"
        )
    if engine == "hf-transfer":
        return HfTransferBackend.installed(connections)
    if engine == "xet":
        return XetBackend()
    limit = RateLimit(options["limit_rate"]) if options["limit_rate"] else None
    return RangeBackend(Settings(connections, limit=limit), is_forced=options["is_forced"])


def _choose_engine(engine: str, *, limit_rate: int | None) -> str:
    """Return the engine; with ``auto``, HF_HUB_ENABLE_HF_TRANSFER decides."""
    if engine != "auto":
        return engine
    if os.environ.get("HF_HUB_ENABLE_HF_TRANSFER", "").upper() not in ("1", "ON", "YES", "TRUE"):
        return "ranges"
    from gguf_hub.hub.download.external import has_hf_transfer

    prefix = "note: HF_HUB_ENABLE_HF_TRANSFER is set"
    if limit_rate:
        console.note(f"{prefix}, but hf_transfer cannot limit the rate: not used")
        return "ranges"
    if not has_hf_transfer():
        console.note(
            f"{prefix}, but hf_transfer is not installed (`pip install 'gguf-hub[hf-transfer]'`); "
            "gguf-hub's own engine is as fast, and resumes"
        )
        return "ranges"
    console.note(
        f"{prefix}: using hf_transfer, which cannot resume, repair or limit the rate; "
        "`--engine ranges` can"
    )
    return "hf-transfer"

"""Flags about which parts of llama-server's interface are offered, and the cache of prompts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gguf_hub.cli.options import together

if TYPE_CHECKING:
    from gguf_hub.api.server.offers import Offers

offering_options = together(
    click.option("--slots/--no-slots", default=True,
                 help="Show clients the state of the slots at `/slots` (default), or not."),
    click.option("--slot-save-path", type=click.Path(file_okay=False, path_type=Path),
                 metavar="FOLDER",
                 help="Let clients save the cache of a slot to files in this folder, and restore "
                      "it: `/slots/0?action=save`."),
    click.option("--props", is_flag=True, help="Answer `POST /props`, which changes nothing yet."),
    click.option("--webui/--no-webui", "--ui/--no-ui", "webui", default=True,
                 help="Serve the web page (default), or not."),
    click.option("--cache-prompt/--no-cache-prompt", default=True,
                 help="Go on from what a slot holds of a prompt (default), or compute all of it, "
                      "where a request does not say."),
)  # fmt: skip
"""Add the options that ``offers_of`` and ``cache_arguments`` read."""


def offers_of(options: Mapping[str, Any]) -> Offers:
    """Return which parts of the interface there are."""
    from gguf_hub.api.server.offers import Offers

    return Offers(options["slots"], options["props"], options["webui"])


def cache_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``reuses_cache`` and ``slot_folder`` for ``open_service``.

    Raises:
        UsageError: The folder is none that can be written to.
    """
    from gguf_hub.api.server.slot_files import check_folder

    folder = options["slot_save_path"]
    return {"reuses_cache": options["cache_prompt"],
            "slot_folder": str(check_folder(folder)) if folder is not None else None}  # fmt: skip

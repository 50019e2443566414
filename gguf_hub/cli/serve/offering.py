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
    click.option("--api-prefix", default="", metavar="PATH",
                 help="Path in front of all paths of the server, as /models."),
    click.option("--cors-origins", multiple=True, metavar="ORIGINS",
                 help="Same as --cors, with commas between several."),
    click.option("--cache-prompt/--no-cache-prompt", default=True,
                 help="Go on from what a slot holds of a prompt (default), or compute all of it, "
                      "where a request does not say."),
)  # fmt: skip
"""Add the options that ``offers_of``, ``origins_of`` and ``cache_arguments`` read."""


def offers_of(options: Mapping[str, Any]) -> Offers:
    """Return which parts of the interface there are."""
    from gguf_hub.api.server.offers import Offers
    from gguf_hub.api.server.prefix import check_prefix

    # processes of the router have no prefix
    prefix = check_prefix(options.get("api_prefix", ""))
    return Offers(options["slots"], options["props"], options["webui"], prefix)


def origins_of(options: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the origins whose pages may send requests.

    Raises:
        UsageError: llama-server's word for all pages of this machine is one of them.
    """
    from gguf_hub.errors import UsageError

    lists = [text.split(",") for text in options["cors_origins"]]
    origins = [name.strip() for names in lists for name in names if name.strip()]
    if "localhost" in origins:
        raise UsageError("--cors-origins localhost: expected origins, with scheme and port",
                         hint="write `--cors-origins http://localhost:3000`")  # fmt: skip
    return (*options["origins"], *origins)


def cache_arguments(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``reuses_cache`` and ``slot_folder`` for ``open_service``.

    Raises:
        UsageError: The folder is none that can be written to.
    """
    from gguf_hub.api.server.slot_files import check_folder

    folder = options["slot_save_path"]
    return {"reuses_cache": options["cache_prompt"],
            "slot_folder": str(check_folder(folder)) if folder is not None else None}  # fmt: skip

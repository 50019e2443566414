"""The process of one model of ``gguf-hub serve`` with several; no command."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gguf_hub.errors import GgufHubError


def main(arguments: Sequence[str]) -> int:
    """Serve what the parent says until it closes the pipe; return the exit code."""
    from gguf_hub.api.server.router.child_server import Parent

    parent = Parent.of_this_process()
    wanted = parent.ask()
    stop, has_loaded = threading.Event(), threading.Event()

    def end() -> None:
        """Stop serving, or leave at once while the model still loads."""
        stop.set()
        if not has_loaded.is_set():
            os._exit(0)  # loading cannot be interrupted otherwise

    parent.follow(end)
    try:
        _serve(wanted, parent, stop, has_loaded)
    except GgufHubError as error:
        has_loaded.set()  # the exit code is that of the error
        parent.tell(error=error.message, hint=error.hint)
        return error.exit_code
    except MemoryError:
        has_loaded.set()
        parent.tell(error="not enough memory")
        return 1
    return 0


def _serve(
    wanted: dict[str, Any], parent: Any, stop: threading.Event, has_loaded: threading.Event
) -> None:
    from gguf_hub.api.server.app import create_app
    from gguf_hub.api.server.router.child_server import ParentProgress, serve_child
    from gguf_hub.cli.run.opening import report_lost_pages
    from gguf_hub.cli.serve.offering import offers_of
    from gguf_hub.cli.serve.serving import open_served

    path, name = Path(wanted["path"]), wanted["name"]
    # JSON has no tuples
    options = {key: tuple(value) if isinstance(value, list) else value
               for key, value in wanted["options"].items()}  # fmt: skip
    served = open_served(
        path, options, progress=ParentProgress(parent), name=name, **wanted["arguments"]
    )
    with report_lost_pages(f"`{path}`"), served as service:
        app = create_app(
            service, api_keys=(wanted["key"],), hosts=(), takes_any_name=True,
            max_body_bytes=wanted["max_body_bytes"], offers=offers_of(options),
        )  # fmt: skip
        has_loaded.set()
        serve_child(app, parent, wanted["n_connections"], stop)

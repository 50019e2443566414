"""``llama_cpp.server.app``."""

from __future__ import annotations

from typing import Any

from gguf_hub.api.compat.llama_cpp.unavailable import refuse

_USE = "start a server by `gguf-hub serve MODEL`, or open a model by `Llama(...)`"


class LlamaProxy:
    """Not there: models of a server are loaded by the server."""

    def __init__(self, *args: Any, **options: Any) -> None:
        refuse("server.app.LlamaProxy", "llama-cpp-python's server is not there", _USE)


def create_app(*args: Any, **options: Any) -> None:
    """Refuse: the server is ``gguf-hub serve``."""
    refuse("server.app.create_app", "llama-cpp-python's server is not there", _USE)

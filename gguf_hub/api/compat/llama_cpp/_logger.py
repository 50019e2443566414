"""``llama_cpp._logger``: programs set its level to have less, or more, on their terminal."""

from __future__ import annotations

import logging

logger = logging.getLogger("llama-cpp-python")
"""Nothing is written to it: gguf-hub's own is ``gguf_hub``."""


def set_verbose(verbose: bool) -> None:
    """Set the level of gguf-hub's log, too."""
    for each in (logger, logging.getLogger("gguf_hub")):
        each.setLevel(logging.DEBUG if verbose else logging.ERROR)

"""Pick, download, verify and run GGUF models.

Importing the package is light on purpose: no numba, no huggingface_hub, no yaml. Each of them is
imported by the one room that owns it, when that room is used.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False
"""What type checkers take to be true; ``typing`` itself is imported by none of our first lines."""

if TYPE_CHECKING:
    from gguf_hub.api.llama import Llama as Llama
else:

    def __getattr__(name: str) -> object:
        """Return ``Llama``, whose room is imported only when it is asked for."""
        if name == "Llama":
            from importlib import import_module

            return import_module("gguf_hub.api.llama").Llama
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

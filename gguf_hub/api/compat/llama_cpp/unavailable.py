"""Names that programs import and that cannot work here: they say so when they are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from gguf_hub.errors import UsageError

_NOTHING_BEHIND = "there is no llama.cpp behind it"
_HINT = "the methods of `Llama` do what most programs need: see docs/llama-cpp-python.md"


class UnavailableError(UsageError, NotImplementedError):
    """Something of llama-cpp-python that gguf-hub does not have."""


def refuse(name: str, reason: str = _NOTHING_BEHIND, hint: str = _HINT) -> NoReturn:
    """Raise an UnavailableError that says why ``llama_cpp.<name>`` cannot be used."""
    raise UnavailableError(f"`llama_cpp.{name}` cannot be used with gguf-hub: {reason}", hint=hint)


class Explained:
    """A class that says of names of llama-cpp-python's class which it lacks why it does."""

    _LACKS: Mapping[str, str] = {}
    """Name -> the reason, or what to use."""

    def __getattr__(self, name: str) -> Any:
        """Raise an AttributeError, with the reason where there is one."""
        text = f"{type(self).__name__!r} object has no attribute {name!r}"
        reason = self._LACKS.get(name)
        raise AttributeError(f"{text}: {reason}" if reason else text)


def function(name: str, reason: str = _NOTHING_BEHIND, hint: str = _HINT) -> Callable[..., Any]:
    """Return a function that refuses to be called."""

    def call(*args: Any, **kwargs: Any) -> NoReturn:
        """Refuse whatever the arguments are."""
        refuse(name, reason, hint)

    call.__name__ = call.__qualname__ = name.rpartition(".")[2]
    return call

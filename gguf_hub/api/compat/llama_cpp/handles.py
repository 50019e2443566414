"""Numbers that stand for open files and contexts, as llama.cpp's pointers do.

Programs pass them from one C function to the next, some through native code, so they are plain
integers. Each leads to what it stands for while its owner has it open: a ``Llama``, or whoever
opened it by a C function and has not freed it yet.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast
from weakref import WeakValueDictionary

from gguf_hub.api.llama.parts import LlamaValueError

T = TypeVar("T")

_open: WeakValueDictionary[int, Any] = WeakValueDictionary()
_owned: dict[int, Any] = {}


def handle_of(thing: Any, *, is_owned: bool = False) -> int:
    """Return the number of something.

    Args:
        thing: It must stay alive as long as the number is used.
        is_owned: Keep it alive until ``release``.
    """
    handle = id(thing)
    _open[handle] = thing
    if is_owned:
        _owned[handle] = thing
    return handle


def release(handle: int) -> Any:
    """Forget a number; return what it stood for, None where that is gone already."""
    thing = _open.pop(number(handle), None)
    _owned.pop(number(handle), None)
    return thing


def find(kind: type[T], handle: Any) -> T:
    """Return what a number stands for.

    Raises:
        LlamaValueError: Nothing of that kind.
    """
    thing = _open.get(number(handle))
    if not isinstance(thing, kind):
        raise LlamaValueError(
            f"no open {kind.__name__} has the handle {handle!r}: it was closed, or is another's"
        )
    return thing


def number(value: Any) -> int:
    """Return a Python int for one, or for a ``ctypes`` number; 0 for a null pointer."""
    return cast(int, getattr(value, "value", value) or 0)

"""``llama_cpp._utils``."""

from __future__ import annotations

from types import TracebackType


class suppress_stdout_stderr:
    """A block in which llama.cpp would print; gguf-hub prints nothing, so all is left as it is.

    Args:
        disable: Without effect.
    """

    def __init__(self, disable: bool = True) -> None:
        self.disable = disable

    def __enter__(self) -> suppress_stdout_stderr:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        return None

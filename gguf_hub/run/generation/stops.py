"""Stop texts in streamed text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def stop_list(stop: str | Sequence[str] | None) -> list[str]:
    """Return OpenAI's ``stop`` as a list."""
    return [stop] if isinstance(stop, str) else list(stop or ())


class StopText:
    """Passes text on as soon as it cannot be the start of a stop text any more.

    Each character is compared once with each stop text, however similar they are.

    Args:
        stops: Texts that end it; empty ones are ignored.
    """

    def __init__(self, stops: Iterable[str] = ()) -> None:
        self._matches = tuple(_Match(stop) for stop in dict.fromkeys(stops) if stop)
        self._buffer = ""
        self.match: str | None = None
        """The stop text that ended the text."""

    def feed(self, text: str) -> str:
        """Add text; return what is safe to show now, nothing once the text has ended."""
        if not self._matches:
            return text
        if self.match is not None:
            return ""
        n_before = len(self._buffer)
        self._buffer += text
        for i, char in enumerate(text, n_before + 1):
            complete = [match.stop for match in self._matches if match.read(char)]
            if complete:
                # the first complete one counts, however the text is cut; of several, the longest
                self.match = max(complete, key=len)
                ready, self._buffer = self._buffer[: i - len(self.match)], ""
                return ready
        split = len(self._buffer) - max(match.n_read for match in self._matches)
        ready, self._buffer = self._buffer[:split], self._buffer[split:]
        return ready

    def flush(self) -> str:
        """Return the rest of the buffer at the end of the text."""
        ready, self._buffer = self._buffer, ""
        return ready


class _Match:
    """The longest prefix of a stop text that the characters so far end with.

    Source: Knuth, Morris and Pratt 1977; the table grows as the match does.

    Attributes:
        stop: The stop text.
        n_read: Length of that prefix.
    """

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.n_read = 0
        self._borders = [0, 0]  # length -> length of the longest shorter prefix that it ends with

    def read(self, char: str) -> bool:
        """Read a character; return whether the stop text is complete."""
        self.n_read = self._extended_length(self.n_read, char)
        while len(self._borders) <= self.n_read:
            last = len(self._borders) - 1
            self._borders.append(self._extended_length(self._borders[last], self.stop[last]))
        return self.n_read == len(self.stop)

    def _extended_length(self, n: int, char: str) -> int:
        """Return the length of the longest prefix that the first ``n`` and ``char`` end with."""
        while n and self.stop[n] != char:
            n = self._borders[n]
        return n + 1 if self.stop[n] == char else 0

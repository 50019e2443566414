"""Text that comes in pieces and ends before a stop text."""

from __future__ import annotations

from collections.abc import Iterable


class StopText:
    """Hands text on as soon as it cannot be the start of a stop text any more.

    Each character is looked at once for each stop text, however alike they are.

    Args:
        stops: Texts that end it; empty ones do not count.
    """

    def __init__(self, stops: Iterable[str] = ()) -> None:
        self._matches = tuple(_Match(stop) for stop in dict.fromkeys(stops) if stop)
        self._held = ""
        self.found: str | None = None
        """The stop text that was met."""

    def feed(self, text: str) -> str:
        """Return what is safe to show after ``text`` has come; nothing once it has ended."""
        if not self._matches:
            return text
        if self.found is not None:
            return ""
        n_before = len(self._held)
        self._held += text
        for i, char in enumerate(text, n_before + 1):
            whole = [match.stop for match in self._matches if match.read(char)]
            if whole:
                # what is complete first counts, however the text is cut; of several, the longest
                self.found = max(whole, key=len)
                shown, self._held = self._held[: i - len(self.found)], ""
                return shown
        split = len(self._held) - max(match.n_read for match in self._matches)
        shown, self._held = self._held[:split], self._held[split:]
        return shown

    def flush(self) -> str:
        """Return what was held back, when no more text comes."""
        shown, self._held = self._held, ""
        return shown


class _Match:
    """How much of a stop text the characters read so far end with.

    Source: Knuth, Morris and Pratt 1977; the table grows as the match does.

    Attributes:
        stop: The stop text.
        n_read: Length of its longest start that they end with.
    """

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.n_read = 0
        self._borders = [0, 0]  # length -> length of the longest shorter start that it ends with

    def read(self, char: str) -> bool:
        """Read a character; return whether the stop text is complete."""
        self.n_read = self._after(self.n_read, char)
        while len(self._borders) <= self.n_read:
            last = len(self._borders) - 1
            self._borders.append(self._after(self._borders[last], self.stop[last]))
        return self.n_read == len(self.stop)

    def _after(self, n: int, char: str) -> int:
        """Return the length of the longest start that the first ``n`` and ``char`` end with."""
        while n and self.stop[n] != char:
            n = self._borders[n]
        return n + 1 if self.stop[n] == char else 0

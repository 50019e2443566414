"""Text that comes in pieces and ends before a stop text."""

from __future__ import annotations

from collections.abc import Iterable


class StopText:
    """Hands text on as soon as it cannot be the start of a stop text any more.

    Args:
        stops: Texts that end it; empty ones do not count.
    """

    def __init__(self, stops: Iterable[str] = ()) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found: str | None = None
        """The stop text that was met."""

    def feed(self, text: str) -> str:
        """Return what is safe to show after ``text`` has come; nothing once it has ended."""
        if not self._stops:
            return text
        if self.found is not None:
            return ""
        self._held += text
        places = [(self._held.find(stop), stop) for stop in self._stops if stop in self._held]
        if places:
            # what is complete first counts, however the text is cut; of several, the longest
            end, self.found = min(places, key=lambda place: (place[0] + len(place[1]), place[0]))
            shown, self._held = self._held[:end], ""
            return shown
        split = len(self._held) - self._n_doubtful()
        shown, self._held = self._held[:split], self._held[split:]
        return shown

    def flush(self) -> str:
        """Return what was held back, when no more text comes."""
        shown, self._held = self._held, ""
        return shown

    def _n_doubtful(self) -> int:
        """Return how many characters at the end may begin a stop text."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for n in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-n:]) for stop in self._stops):
                return n
        return 0

"""Stop texts in streamed text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def stop_list(stop: str | Sequence[str] | None) -> list[str]:
    """Return OpenAI's ``stop`` as a list."""
    return [stop] if isinstance(stop, str) else list(stop or ())


class StopText:
    """Passes text on as soon as it cannot be the start of a stop text any more.

    Source: Aho and Corasick 1975. Each character takes a few look-ups, however many stop texts
    there are and however similar.

    Args:
        stops: Texts that end it; empty ones are ignored.
    """

    def __init__(self, stops: Iterable[str] = ()) -> None:
        self._children: dict[tuple[int, str], int] = {}
        self._lengths = [0]  # node -> characters from the root, node 0
        self._complete = [0]  # node -> length of the longest stop text that ends there
        for stop in stops:
            self._add(stop)
        self._borders = self._find_borders()
        self._node = 0  # the longest start of a stop text that the text so far ends with
        self._buffer = ""
        self.match: str | None = None
        """The stop text that ended the text."""

    def _add(self, stop: str) -> None:
        node = 0
        for char in stop:
            parent, node = node, self._children.setdefault((node, char), len(self._lengths))
            if node == len(self._lengths):
                self._lengths.append(self._lengths[parent] + 1)
                self._complete.append(0)
        self._complete[node] = len(stop)

    def _find_borders(self) -> list[int]:
        """Return, for each node, that of the longest shorter start that its text ends with."""
        borders = [0] * len(self._lengths)
        edges = sorted(self._children.items(), key=lambda edge: self._lengths[edge[1]])
        for (parent, char), node in edges:  # the shorter ones first: they lead to the longer
            if parent:
                borders[node] = self._next(borders[parent], char, borders)
            self._complete[node] = self._complete[node] or self._complete[borders[node]]
        return borders

    def _next(self, node: int, char: str, borders: list[int]) -> int:
        while node and (node, char) not in self._children:
            node = borders[node]
        return self._children.get((node, char), 0)

    def feed(self, text: str) -> str:
        """Add text; return what is safe to show now, nothing once the text has ended."""
        if not self._children:
            return text
        if self.match is not None:
            return ""
        n_before = len(self._buffer)
        self._buffer += text
        for i, char in enumerate(text, n_before + 1):
            self._node = self._next(self._node, char, self._borders)
            if n_match := self._complete[self._node]:
                # the first complete one counts, however the text is cut; of several, the longest
                self.match = self._buffer[i - n_match : i]
                ready, self._buffer = self._buffer[: i - n_match], ""
                return ready
        split = len(self._buffer) - self._lengths[self._node]
        ready, self._buffer = self._buffer[:split], self._buffer[split:]
        return ready

    def flush(self) -> str:
        """Return the rest of the buffer at the end of the text."""
        ready, self._buffer = self._buffer, ""
        return ready

"""Responses that later requests refer to, kept in memory: the newest ones within a bound."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gguf_hub.api.server.replies import dumps
from gguf_hub.errors import UsageError

Item = dict[str, Any]

MAX_RESPONSES = 1024
MAX_BYTES = 64 * 2**20


class NoResponseError(UsageError):
    """A response that is not stored, or not any more."""


@dataclass(frozen=True)
class _Stored:
    response: Item
    items: Sequence[Item]
    n_bytes: int


class ResponseStore:
    """Keeps responses and the conversations that they end.

    Args:
        max_responses: How many are kept.
        max_bytes: Size of all of them as JSON.
    """

    def __init__(self, max_responses: int = MAX_RESPONSES, max_bytes: int = MAX_BYTES) -> None:
        self._max_responses, self._max_bytes = max_responses, max_bytes
        self._stored: OrderedDict[str, _Stored] = OrderedDict()
        self._n_bytes = 0

    def add(self, response: Item, items: Sequence[Item]) -> None:
        """Keep a response, and drop the oldest ones that no longer fit.

        Args:
            response: The response.
            items: The input, that of the responses before it included.
        """
        conversation = [*items, *response["output"]]
        n_bytes = len(dumps([response, conversation]))
        self._stored[response["id"]] = _Stored(response, conversation, n_bytes)
        self._n_bytes += n_bytes
        while len(self._stored) > self._max_responses or self._n_bytes > self._max_bytes:
            _, oldest = self._stored.popitem(last=False)
            self._n_bytes -= oldest.n_bytes

    def get(self, response_id: str) -> Item:
        """Return a response.

        Raises:
            NoResponseError: It is not stored.
        """
        return self._find(response_id).response

    def delete(self, response_id: str) -> None:
        """Forget a response.

        Raises:
            NoResponseError: It is not stored.
        """
        self._n_bytes -= self._find(response_id).n_bytes
        del self._stored[response_id]

    def items_of(self, response_id: str) -> Sequence[Item]:
        """Return the items of a conversation up to a response.

        Raises:
            NoResponseError: It is not stored.
        """
        return self._find(response_id).items

    def input_of(self, response_id: str) -> list[Item]:
        """Return the items that a response answers, as OpenAI lists them: each with an id.

        Raises:
            NoResponseError: It is not stored.
        """
        stored = self._find(response_id)
        items = stored.items[: len(stored.items) - len(stored.response["output"])]
        return [_listed(item, f"item_{i}_{response_id}") for i, item in enumerate(items)]

    def resolve(self, item: Item) -> Item:
        """Return an item, or the one that it refers to.

        Raises:
            NoResponseError: That one is not stored.
        """
        if item.get("type") != "item_reference":
            return item
        for stored in reversed(self._stored.values()):
            for found in stored.response["output"]:
                if found["id"] == item.get("id"):
                    return dict(found)
        raise NoResponseError(f"input: no item `{item.get('id')!s:.60}`",
                              hint="send the item itself")  # fmt: skip

    def _find(self, response_id: str) -> _Stored:
        stored = self._stored.get(response_id)
        if stored is None:
            raise NoResponseError(
                f"no response `{response_id:.60}`: it was not stored, was deleted, or made room "
                "for newer ones", hint="send the whole conversation as `input`",
            )  # fmt: skip
        return stored


def _listed(item: Item, item_id: str) -> Item:
    """Return an item with what clients may have left out."""
    given = {key: value for key, value in item.items() if value is not None}
    listed: Item = {"type": "message", "id": item_id, "status": "completed", **given}
    if isinstance(listed.get("content"), str):
        kind = "output_text" if listed.get("role") == "assistant" else "input_text"
        more: Item = {"annotations": []} if kind == "output_text" else {}
        listed["content"] = [{"type": kind, "text": listed["content"], **more}]
    return listed

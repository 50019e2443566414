"""Names of machines while Ray's listing changes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from gguf_hub.api.cluster.ray_host import RayNode, _Names, alive_nodes

ADDRESS = "10.0.0.2"


def listing(*ids: str) -> list[RayNode]:
    """What Ray lists where lives of one machine are there, the first not dropped yet."""
    entries: list[dict[str, Any]] = [
        {"Alive": True, "NodeManagerAddress": ADDRESS, "NodeID": id * 8,
         "NodeManagerHostname": "box"}
        for id in ids
    ]  # fmt: skip
    return alive_nodes(SimpleNamespace(nodes=lambda: entries))


def by_id(nodes: list[RayNode]) -> dict[str, str]:
    return {node.node_id[0]: node.name for node in nodes}


def test_one_machine_is_named_by_its_address() -> None:
    assert by_id(listing("a")) == {"a": ADDRESS}
    assert by_id(listing("a", "b")) == {"a": f"{ADDRESS}#aaaaaa", "b": f"{ADDRESS}#bbbbbb"}


def test_a_name_stays_when_the_past_self_is_dropped() -> None:
    names = _Names()
    before = by_id(names.keep(listing("a", "b")))
    assert by_id(names.keep(listing("b"))) == {"b": before["b"]}


def test_a_name_stays_when_a_new_self_comes() -> None:
    names = _Names()
    assert by_id(names.keep(listing("a"))) == {"a": ADDRESS}
    both = by_id(names.keep(listing("a", "b")))
    assert both == {"a": ADDRESS, "b": f"{ADDRESS}#bbbbbb"}


def test_no_machine_gets_the_name_of_one_that_has_failed() -> None:
    names = _Names()
    names.keep(listing("a"))
    assert by_id(names.keep(listing("b"))) == {"b": f"{ADDRESS}#bbbbbb"}
    assert by_id(names.keep(listing("b", "c")))["c"] == f"{ADDRESS}#cccccc"

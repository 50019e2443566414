"""Putting trees together, and writing them as GBNF."""

from __future__ import annotations

import pytest

from gguf_hub.run.grammar import Grammar
from gguf_hub.run.grammar.gbnf import Alt, Chars, Literal, Node, Ref, Repeat, Seq, Token, parse_gbnf
from gguf_hub.run.grammar.trees import (
    EMPTY,
    NOTHING,
    alt,
    chars,
    format_gbnf,
    optional,
    prune,
    repeat,
    seq,
    subtract,
)

A, B = Literal("a"), Literal("b")


def test_impossible_parts_disappear() -> None:
    assert seq(A, NOTHING, B) == NOTHING and alt(NOTHING, A, NOTHING) == A
    assert alt(A, B, A) == Alt((A, B)) and seq(seq(A, B), EMPTY) == Seq((A, B))
    assert repeat(NOTHING, 0, 3) == EMPTY and repeat(NOTHING, 1, None) == NOTHING
    assert repeat(A, 3, 2) == NOTHING and repeat(A, 1, 1) == A and optional(A) == Repeat(A, 0, 1)


def test_branches_that_never_end_are_pruned_and_unused_rules_go() -> None:
    rules = {
        "root": Alt((Ref("endless"), Seq((A, Ref("tail"))))),
        "endless": Seq((A, Ref("endless"))),
        "tail": Alt((Seq((B, Ref("tail"))), EMPTY)),
        "unused": A,
    }
    kept = prune(rules, "root")
    assert list(kept) == ["root", "tail"] and kept["root"] == Seq((A, Ref("tail")))
    assert prune({"root": Ref("root")}, "root") == {"root": NOTHING}


def test_subtracting_ranges() -> None:
    assert subtract(((1, 5), (8, 9)), ((2, 3), (5, 8))) == ((1, 1), (4, 4), (9, 9))
    assert subtract(((1, 5),), ((0, 9),)) == ()


TREES: list[Node] = [
    Literal('a"\\\n\x01é'),
    Chars(((0x2D, 0x2D), (0x41, 0x5E), (0x62, 0x62), (0xE000, 0xE001), (0x1F999, 0x1F9A0))),
    Seq((A, Alt((B, EMPTY, Seq((A, B)))))),
    Repeat(Alt((A, Repeat(B, 2, 2))), 0, None),
    Seq((Repeat(Seq((A, B)), 1, None), Repeat(A, 0, 1), Repeat(B, 2, None), Repeat(A, 2, 5))),
    Seq((Token(5, False), Token("<x>", True), Ref("root"))),
    chars("^-]\\[\t"),
]


@pytest.mark.parametrize("tree", TREES, ids=lambda tree: type(tree).__name__)
def test_what_is_written_reads_as_the_same_tree(tree: Node) -> None:
    again = parse_gbnf(format_gbnf({"root": tree}))["root"]
    assert format_gbnf({"root": again}) == format_gbnf({"root": tree})
    if Ref("root") not in getattr(tree, "items", ()):
        texts = [
            "",
            "a",
            "b",
            "ab",
            "aab",
            "abab",
            "abbb",
            "-",
            "^",
            "]",
            "\\",
            "🦙",
            "\ue000",
            "\t",
        ]
        first, second = Grammar({"root": tree}), Grammar({"root": again})
        assert [first.accepts(t) for t in texts] == [second.accepts(t) for t in texts]

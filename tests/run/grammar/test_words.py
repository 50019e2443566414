"""Many texts as one automaton: it reads these and no others, and has no node twice."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.run.grammar import Grammar
from gguf_hub.run.grammar.words import WordNode, merge_words

BYTES = b"ab\xff"


def reads(nodes: list[WordNode], word: bytes) -> bool:
    at = len(nodes) - 1
    for byte in word:
        targets = dict(nodes[at][0])
        if byte not in targets:
            return False
        at = targets[byte]
    return nodes[at][1]


@given(st.lists(st.lists(st.sampled_from(BYTES), max_size=4).map(bytes), min_size=1))
def test_it_reads_just_these_words(words: list[bytes]) -> None:
    nodes = merge_words(words)
    for length in range(6):
        for letters in itertools.product(BYTES, repeat=length):
            assert reads(nodes, bytes(letters)) == (bytes(letters) in words)
    assert len(set(nodes[:-1])) == len(nodes) - 1


def test_what_many_texts_share_is_there_once() -> None:
    texts = [f"value number {i} of many" for i in range(1000)]
    assert len(merge_words(text.encode() for text in texts)) < 40
    grammar = Grammar.from_schema({"enum": texts})
    assert len(grammar.network.is_end) < 60
    assert grammar.accepts('"value number 77 of many"')
    assert not grammar.accepts('"value number 1000 of many"')

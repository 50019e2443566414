"""Masks: which tokens a grammar allows, against looking at every text there is."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_hub.errors import GrammarError
from gguf_hub.run.grammar import Grammar, Matcher, TokenGrammar, TokenTrie
from gguf_hub.run.grammar.gbnf import Alt, Chars, Literal, Node, Ref, Repeat, Seq
from gguf_hub.run.tokenizer import Tokenizer
from tests.run.grammar.vocabularies import Words
from tests.run.tokenizer.conftest import real_tokenizer

LETTERS = "ab("
WORDS = Words(*LETTERS, "aa", "ab", "ba", "a(", "(a", "aab", "aba", "bbb", "((", "aaaa", "abab")


def matcher(text: str, vocab: Words | Tokenizer = WORDS) -> Matcher:
    return TokenGrammar(Grammar.from_gbnf(text), TokenTrie(vocab)).matcher()


def allowed(m: Matcher, vocab: Words = WORDS) -> set[bytes]:
    return {vocab.words[i] for i in np.flatnonzero(m.mask())}


def after(m: Matcher, *words: str) -> Matcher:
    for word in words:
        m.accept(WORDS.words.index(word.encode()))
    return m


# An oracle that knows neither bytes nor states: all ways to read a text, one character at a time


class Prefix(Exception):
    """A way to read the text ends with it, in the middle of the grammar."""


def ends(node: Node, text: str, at: int, rules: dict[str, Node], seen: list[bool]) -> set[int]:
    """Return where reading ``node`` from ``at`` can end; note in ``seen`` if the text ran out."""
    if isinstance(node, Literal):
        for char in node.text:
            if at == len(text):
                seen[0] = True
                return set()
            if text[at] != char:
                return set()
            at += 1
        return {at}
    if isinstance(node, Chars):
        if at == len(text):
            seen[0] = True
            return set()
        return {at + 1} if any(a <= ord(text[at]) <= b for a, b in node.ranges) else set()
    if isinstance(node, Ref):
        return ends(rules[node.name], text, at, rules, seen)
    if isinstance(node, Alt):
        return set().union(*(ends(o, text, at, rules, seen) for o in node.options))
    if isinstance(node, Seq):
        places = {at}
        for item in node.items:
            places = set().union(*(ends(item, text, p, rules, seen) for p in places))
        return places
    assert isinstance(node, Repeat)
    places, out, n = {at}, ({at} if node.low == 0 else set()), 0
    while places and (node.high is None or n < node.high) and n < node.low + len(text) + 2:
        places = set().union(*(ends(node.item, text, p, rules, seen) for p in places))
        n += 1
        if n >= node.low:
            out |= places
    return out


def oracle(rules: dict[str, Node], text: str) -> tuple[bool, bool]:
    """Return (can the text go on or is complete, is it complete)."""
    seen = [False]
    complete = len(text) in ends(rules["root"], text, 0, rules, seen)
    return complete or seen[0], complete


LEAVES = st.one_of(
    st.text(LETTERS, max_size=3).map(Literal),
    st.sets(st.sampled_from(LETTERS), min_size=1).map(
        lambda s: Chars(tuple(sorted((ord(c), ord(c)) for c in s)))
    ),
    st.just(Ref("pair")),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: Seq(tuple(items))),
        st.lists(inner, min_size=1, max_size=3).map(lambda items: Alt(tuple(items))),
        st.builds(Repeat, inner, st.just(0), st.none()),
        st.builds(lambda i, a, b: Repeat(i, a, a + b), inner, st.integers(0, 2), st.integers(0, 2)),
    ),
    max_leaves=6,
)
PAIR = Seq((Literal("("), Repeat(Ref("pair"), 0, 1), Literal("b")))


@pytest.mark.parametrize(
    ("grammar", "text"),
    [('root ::= "a" [à-ü]', "aé"), ("root ::= [à-ü]", "é"), ('root ::= "aé" | "bé"', "bé"),
     ('root ::= "é" | "a"', "a")],
)  # fmt: skip
def test_after_the_whole_text_nothing_is_allowed_but_its_end(grammar: str, text: str) -> None:
    vocab = Words(*(bytes((b,)) for b in range(256)))
    m = TokenGrammar(Grammar.from_gbnf(grammar), TokenTrie(vocab)).matcher()
    for byte in text.encode():
        m.accept(byte)
    assert set(np.flatnonzero(m.mask())) == vocab.eog_ids


@settings(deadline=None, max_examples=60)
@given(tree=TREES, choices=st.lists(st.integers(0, 99), max_size=4))
def test_masks_equal_those_of_reading_every_continuation(tree: Node, choices: list[int]) -> None:
    rules = {"root": tree, "pair": PAIR}
    m = TokenGrammar(Grammar(rules), TokenTrie(WORDS)).matcher()
    text = ""
    for choice in [*choices, 0]:
        mask = m.mask()
        can_end = oracle(rules, text)[1]
        expected = [oracle(rules, text + w.decode())[0] if w else can_end for w in WORDS.words]
        assert mask.tolist() == expected
        assert m.is_complete == can_end
        going_on = [i for i, ok in enumerate(expected[:-1]) if ok]
        if not going_on:
            break
        token_id = going_on[choice % len(going_on)]
        m.accept(token_id)
        text += WORDS.words[token_id].decode()


@pytest.mark.parametrize(("low", "high"), [(0, 30), (12, 30), (20, 20), (9, None), (0, 9)])
@pytest.mark.parametrize("item", ["[ab]", '"ab"', '("a" | "b" "a")', "pair", "[ab\u00e9]"])
def test_counts_are_hidden_only_while_they_do_not_matter(
    low: int, high: int | None, item: str
) -> None:
    count = f"{{{low},{'' if high is None else high}}}"
    text = f'root ::= "(" {item}{count} "("\npair ::= "a" pair? "b"'
    grammar = Grammar.from_gbnf(text)
    tokens = TokenGrammar(grammar, TokenTrie(WORDS))
    tokens_plain = TokenGrammar(grammar, TokenTrie(WORDS))
    tokens_plain.automaton._reach = 10**9  # no count is ever far enough
    hidden, plain = tokens.matcher(), tokens_plain.matcher()
    rng = np.random.default_rng(low)
    for _ in range(70):
        assert hidden.mask().tolist() == plain.mask().tolist()
        going_on = np.flatnonzero(plain.mask()[:-1])
        if not len(going_on):
            break
        token_id = int(rng.choice(going_on))
        hidden.accept(token_id)
        plain.accept(token_id)
    assert hidden.is_complete == plain.is_complete


def test_far_counts_share_one_mask() -> None:
    tokens = TokenGrammar(Grammar.from_gbnf("root ::= [ab]{0,5000}"), TokenTrie(WORDS))
    m = tokens.matcher()
    masks = set()
    for _ in range(1000):
        masks.add(id(m.mask()))
        m.accept(WORDS.words.index(b"abab"))
    assert len(masks) == 1


# Tokens


def test_the_end_is_allowed_when_the_output_is_complete() -> None:
    m = matcher('root ::= "ab" "a"?')
    end = WORDS.n_vocab - 1
    assert allowed(m) == {b"a", b"ab", b"aba"}
    assert allowed(after(m, "ab")) == {b"a", b""}
    m.accept(end)
    assert m.is_complete
    assert allowed(after(m, "a")) == {b""}


def test_a_token_that_is_not_allowed_is_refused() -> None:
    with pytest.raises(GrammarError, match="does not allow token 1 here"):
        after(matcher('root ::= "a"'), "b")
    with pytest.raises(GrammarError, match="does not allow"):
        matcher('root ::= "a"').accept(WORDS.n_vocab - 1)


def test_a_copy_goes_its_own_way() -> None:
    first = after(matcher('root ::= "aa" | "ab"'), "a")
    twin = first.copy()
    twin.accept(0)
    assert allowed(first) == {b"a", b"b"} and twin.is_complete and not first.is_complete


def test_half_characters_are_allowed_where_the_whole_one_is() -> None:
    vocab = Words(b"\xc3", b"\xa9", b"\xa8", b"\xf0", b"\x9f\xa6", b"\x99", "é", b"\xc3\xa9\xc3")
    m = matcher('root ::= "é🦙" | [é] "!"', vocab)
    assert allowed(m, vocab) == {b"\xc3", "é".encode()}
    m.accept(0)
    assert allowed(m, vocab) == {b"\xa9"}
    m.accept(1)
    assert allowed(m, vocab) == {b"\xf0"}


def test_tokens_can_be_named() -> None:
    vocab = Words("<think>", "</think>", "a", "b", "think>", "<")
    m = matcher('root ::= <think> !<[1]>* </think> "a"+', vocab)
    assert allowed(m, vocab) == {b"<think>"}
    m.accept(0)
    assert allowed(m, vocab) == set(vocab.words)
    m.accept(4)
    m.accept(1)
    assert allowed(m, vocab) == {b"a"}
    m.accept(2)
    assert m.is_complete


@pytest.mark.parametrize("text", ['root ::= <[0]> "a" | "x" "b"', 'root ::= "x" "b" | <[0]> "a"'])
def test_a_token_may_be_read_by_its_name_and_by_its_bytes_at_once(text: str) -> None:
    vocab = Words("x", "a", "b")
    for word in (b"a", b"b"):
        m = matcher(text, vocab)
        m.accept(0)
        assert allowed(m, vocab) == {b"a", b"b"}
        m.accept(vocab.words.index(word))
        assert m.is_complete


@pytest.mark.parametrize(
    ("text", "problem"),
    [("root ::= <nothing>", "`<nothing>` is no single token"), ("root ::= <[99]>", "found <.99.>")],
)
def test_a_token_that_the_vocabulary_lacks_is_named(text: str, problem: str) -> None:
    with pytest.raises(GrammarError, match=problem):
        matcher(text)


def test_tokens_without_bytes_and_endless_ones_are_never_allowed() -> None:
    vocab = Words("a", "", "a" * 300)
    m = matcher("root ::= .*", vocab)
    assert np.flatnonzero(m.mask()).tolist() == [0, 3]
    with pytest.raises(GrammarError):
        m.accept(2)


def test_a_matcher_goes_on_when_its_automaton_is_renewed() -> None:
    tokens = TokenGrammar(Grammar.from_gbnf('root ::= "(" root "b" | "a"{3}'), TokenTrie(WORDS))
    m = after(tokens.matcher(), "((", "(a")
    before = m.mask().tolist()
    tokens.renew()
    assert m.mask().tolist() == before
    for word in ("aa", "b", "b", "b"):
        assert not m.is_complete
        after(m, word)
    assert m.is_complete


def test_a_long_generation_stays_small() -> None:
    grammar = Grammar.from_gbnf('root ::= "(" root "b" | "a"')
    tokens = TokenGrammar(grammar, TokenTrie(WORDS), max_states=200)
    m = tokens.matcher()
    for _ in range(1000):
        assert allowed(m) >= {b"(", b"((", b"(a", b"a"}
        after(m, "((")
        assert tokens.automaton.n_states < 220


def test_a_real_vocabulary_allows_what_the_bytes_allow(data) -> None:
    tokenizer = real_tokenizer(data / "vocab" / "mixtral-v1.vocab.gguf")
    grammar = Grammar.from_gbnf('root ::= "{" [ \\t]? "\\"" [^"\\\\]* "\\"" | [а-я]{2,4} "🦙"')
    tokens = TokenGrammar(grammar, TokenTrie(tokenizer))
    m = tokens.matcher()
    for start in ("", '{"', "да"):
        for token_id in tokenizer.encode(start, add_bos=False)[1:] if start else []:
            m.accept(token_id)
        mask = m.mask()
        texts = [tokenizer.token_bytes(i) for i in range(tokenizer.n_vocab)]
        automaton, state = tokens.automaton, m._state
        for token_id in itertools.islice(range(tokenizer.n_vocab), 0, None, 7):
            at = state
            for byte in texts[token_id]:
                at = automaton.next_state(at, byte)
            ends_here = token_id in tokenizer.eog_ids and m.is_complete
            assert mask[token_id] == ((bool(texts[token_id]) and at != 0) or ends_here)
        m = tokens.matcher()

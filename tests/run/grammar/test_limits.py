"""What a grammar may cost: hostile ones are refused, large ones that are meant well are not."""

from __future__ import annotations

import gc
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.budget import limit, look
from gguf_hub.errors import BudgetError, GrammarError
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.generation import GrammarCache
from gguf_hub.run.grammar import Grammar, Matcher, TokenGrammar, TokenTrie
from gguf_hub.run.grammar.automaton import Automaton
from gguf_hub.run.grammar.limits import MAX_AUTOMATON_BYTES, TOKEN_BYTES, TOKEN_CPU_S
from gguf_hub.run.tokenizer import Tokenizer, load_tokenizer
from tests.run.grammar.hostile import GRAMMARS, REFUSED, SCHEMAS, SPENT
from tests.run.grammar.vocabularies import Words

N_TOKENS = 30
MOST_CPU_S = 6.0  # a second is the aim; this tells what never ends, on a slow and busy machine too

pytestmark = pytest.mark.no_cover  # tracing takes most of the time that is looked at


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    root = Path(__file__).resolve().parents[3]
    with GgufFile.open(root / "gguf_hub" / "data" / "tiny-mixtral.f16.gguf") as file:
        return load_tokenizer(file.metadata)


@pytest.fixture(scope="module")
def book(tokenizer: Tokenizer) -> GrammarCache:
    book = GrammarCache(tokenizer)
    book.gbnf('root ::= "x"')  # the vocabulary's table is made once
    return book


def follow(matcher: Matcher, tokenizer: Tokenizer, letter: str | None) -> None:
    """Write some tokens, this letter where it is allowed."""
    for _ in range(N_TOKENS):
        allowed = np.flatnonzero(matcher.mask()).tolist()
        assert allowed, "there is no way on and no end"
        wanted = None if letter is None else letter.encode()
        token_id = next(
            (i for i in allowed if tokenizer.token_bytes(i) == wanted), allowed[len(allowed) // 2]
        )
        if token_id in tokenizer.eog_ids:
            return
        matcher.accept(token_id)


CASES: list[Any] = [
    *(pytest.param(name, text, letter, id=name) for name, (text, letter) in GRAMMARS.items()),
    *(pytest.param(name, schema, None, id=name) for name, schema in SCHEMAS.items()),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "source", "letter"), CASES)
def test_no_grammar_takes_long(
    name: str, source: Any, letter: str | None, book: GrammarCache, tokenizer: Tokenizer
) -> None:
    began = time.thread_time()
    error: GrammarError | None = None
    # what would spend the whole budget gets a small one here
    with limit(0.1 if name in SPENT else 2 * MOST_CPU_S, 150_000_000):
        try:
            make = book.gbnf if name in GRAMMARS else book.schema
            follow(make(source), tokenizer, letter)
        except GrammarError as exc:
            error = exc
    assert time.thread_time() - began < MOST_CPU_S
    if name in REFUSED:
        assert error is not None
    else:  # a slow machine may spend the budget
        assert error is None or "of CPU time" in str(error)
    if name in SPENT:
        assert "it takes more than" in str(error) and error is not None and error.hint


@pytest.mark.slow
def test_the_budget_of_a_grammar_ends_it(book: GrammarCache) -> None:
    began = time.thread_time()
    with pytest.raises(GrammarError, match=r"too large: it takes more than 0\.8 s of CPU time"):
        book.gbnf(GRAMMARS["doubling64opt"][0])
    assert time.thread_time() - began < MOST_CPU_S


def test_drafts_spend_nothing_of_the_text_that_they_are_for(book: GrammarCache) -> None:
    matcher = book.gbnf("root ::= [a-z]*")
    drafted = matcher.ahead()
    with pytest.raises(BudgetError), drafted._budget:
        while True:
            look()
    with pytest.raises(BudgetError), drafted._budget:
        look(), look()
    first = int(np.flatnonzero(matcher.mask())[0])
    for _ in range(8):  # the text goes on, and its tokens pay for more drafts
        matcher.accept(first)
    with matcher.ahead()._budget:
        look(), look()


def test_nothing_is_left_of_a_grammar_that_was_refused(book: GrammarCache) -> None:
    def n_automata() -> int:
        return sum(isinstance(each, Automaton) for each in gc.get_objects())

    gc.collect()
    gc.disable()  # what lies in a cycle waits for its turn, which comes late where memory is full
    try:
        before = n_automata()
        for _ in range(2):
            with limit(0.1, 150_000_000), pytest.raises(GrammarError, match="too large"):
                book.gbnf(GRAMMARS["doubling64opt"][0])
        assert n_automata() == before
    finally:
        gc.enable()


AMBIGUOUS = 'root ::= "a" root "b" | "a" root "c" | "a" root "(" | "a" root "d" | "d"'


def test_a_text_that_can_be_read_in_too_many_ways_ends_with_an_error_and_stays_small() -> None:
    vocab = Words("a", "b", "c", "d", "(")
    tokens = TokenGrammar(Grammar.from_gbnf(AMBIGUOUS), TokenTrie(vocab))
    first, second = tokens.matcher(), tokens.matcher()
    with pytest.raises(GrammarError, match="too many ways to read the text: it takes more than"):
        for _ in range(40):
            first.mask()
            first.accept(0)
    assert tokens.size_bytes < MAX_AUTOMATON_BYTES + TOKEN_BYTES + 1_000_000
    # another text that follows the same grammar goes on
    assert second.mask().tolist() == [True, False, False, True, False, False]
    second.accept(3)
    assert second.is_complete
    assert tokens.size_bytes < MAX_AUTOMATON_BYTES + TOKEN_BYTES + 1_000_000


def test_a_long_text_pays_for_its_tokens_as_it_goes(tokenizer: Tokenizer) -> None:
    tokens = TokenGrammar(Grammar.from_schema({"type": "array"}), TokenTrie(tokenizer))
    matcher = tokens.matcher()
    opening = next(i for i in range(tokenizer.n_vocab) if tokenizer.token_bytes(i) == b"[")
    began = time.thread_time()
    while time.thread_time() - began < 2 * TOKEN_CPU_S:
        for _ in range(10):  # each is a new state: no mask serves twice
            matcher.mask()
            matcher.accept(opening)
    assert not matcher.is_complete


# -- one grammar and others ---------------------------------------------------------------------


class Slow(Words):
    """A vocabulary that looks up named tokens when it is let."""

    def __init__(self) -> None:
        super().__init__("a", "<x>")
        self.is_asked, self.may_go_on = threading.Event(), threading.Event()
        self.n_asked = 0

    def encode(self, text: str, add_bos: bool = True, parse_special: bool = False) -> list[int]:
        self.n_asked += 1
        self.is_asked.set()
        assert self.may_go_on.wait(60)
        return super().encode(text, add_bos, parse_special)


def test_a_grammar_that_takes_its_time_delays_no_other_and_is_made_once() -> None:
    vocab = Slow()
    book = GrammarCache(vocab)
    found: list[list[bool]] = []

    def ask() -> None:
        found.append(book.gbnf("root ::= <x>").mask().tolist())

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    assert vocab.is_asked.wait(60)
    assert book.gbnf('root ::= "a"').mask().tolist() == [True, False, False]
    assert found == []
    vocab.may_go_on.set()
    for thread in threads:
        thread.join(60)
    assert found == [[False, True, False]] * 3
    assert vocab.n_asked == 1


def test_who_waits_for_a_grammar_gets_its_error() -> None:
    vocab = Slow()
    book = GrammarCache(vocab)
    errors: list[str] = []

    def ask() -> None:
        try:
            book.gbnf("root ::= <nothing>")
        except GrammarError as exc:
            errors.append(str(exc))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert vocab.is_asked.wait(60)
    vocab.may_go_on.set()
    for thread in threads:
        thread.join(60)
    assert len(errors) == 2 and all("`<nothing>` is no single token" in text for text in errors)


def test_few_grammars_are_kept() -> None:
    book = GrammarCache(Words("a", "b"))
    for i in range(60):
        book.gbnf('root ::= "' + "a" * i + 'b"')
    assert len(book._grammars) == 16

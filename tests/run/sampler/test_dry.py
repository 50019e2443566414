"""DRY against repetitions counted by hand and by looking at every position."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from gguf_hub.run.sampler import SamplerConfig
from gguf_hub.run.sampler.dry import dry_penalties, find_breakers, z_lengths

A, B, C, Y = 1, 2, 3, 9


def penalties(recent: list[int], breakers: Any = None, **options: Any) -> dict[int, float]:
    config = SamplerConfig.from_options(**{"dry_multiplier": 1.0, "dry_base": 2.0, **options})
    return dry_penalties(recent, config, breakers or {})


def test_a_token_is_penalised_by_the_length_that_it_would_prolong() -> None:
    # "a b c" came before and was followed by c; "b c" alone by y: 2 ** (3 - 2) and 2 ** (2 - 2)
    recent = [A, B, C, C, B, C, Y, A, B, C]
    assert penalties(recent) == {C: 2.0, Y: 1.0}
    assert penalties(recent, dry_multiplier=0.5, dry_base=3.0) == {C: 1.5, Y: 0.5}
    assert penalties(recent, dry_allowed_length=3) == {C: 1.0}


def test_looking_back_less_finds_less() -> None:
    recent = [A, B, C, C, B, C, Y, A, B, C]
    assert penalties(recent, dry_penalty_last_n=7) == {Y: 1.0}
    assert penalties(recent, dry_penalty_last_n=2) == {}


def test_no_repetition_reaches_over_a_sequence_breaker() -> None:
    recent = [A, B, C, Y, A, B, C]
    assert penalties(recent) == {Y: 2.0}
    assert penalties(recent, {A: [()]}) == {Y: 1.0}  # b c is left
    assert penalties(recent, {B: [()]}) == {}  # c alone is not over the allowed length
    assert penalties(recent, {A: [(B,)]}) == {}
    assert penalties(recent, {A: [(Y,)]}) == {Y: 2.0}  # a y did not come


def test_a_breaker_itself_is_never_penalised() -> None:
    recent = [A, B, C, Y, A, B, C]
    assert penalties(recent, {Y: [()]}) == {}
    assert penalties(recent, {Y: [(A, A)]}) == {Y: 2.0}


def test_a_long_repetition_does_not_overflow() -> None:
    assert penalties([A] * 5000)[A] == 1e18
    assert penalties([A] * 5000, dry_base=1.0)[A] == 1.0


@settings(deadline=None, max_examples=80)
@given(recent=st.lists(st.integers(0, 2), max_size=40), allowed=st.integers(1, 3))
def test_penalties_equal_those_of_looking_at_every_position(
    recent: list[int], allowed: int
) -> None:
    expected: dict[int, float] = {}
    for i in range(len(recent) - 1):  # recent[i + 1] came after what ends at i
        length = 0
        while length <= i and recent[i - length] == recent[-1 - length]:
            length += 1
        if length >= allowed and len(recent) > allowed:
            token = recent[i + 1]
            expected[token] = max(expected.get(token, 0.0), 2.0 ** (length - allowed))
    assert penalties(recent, dry_allowed_length=allowed) == expected


@given(tokens=st.lists(st.integers(0, 1), min_size=1, max_size=30))
def test_z_lengths_are_common_prefixes(tokens: list[int]) -> None:
    def common(k: int) -> int:
        rest = tokens[k:]
        return next((i for i, t in enumerate(rest) if t != tokens[i]), len(rest))

    assert z_lengths(tokens) == [common(k) for k in range(len(tokens))]


class Words:
    """A vocabulary of a few words; text is encoded letter by letter."""

    words = (b"x", b"\n", b"a\nb", b'"', b"end", b"en", b"d")
    n_vocab = len(words)

    def token_bytes(self, token_id: int, special: bool = False) -> bytes:
        return self.words[token_id]

    def encode(self, text: str, add_bos: bool = True, parse_special: bool = False) -> list[int]:
        return [ord(letter) for letter in text]


def test_breakers_are_tokens_that_hold_the_text_or_begin_it() -> None:
    assert find_breakers(["\n", ""], Words()) == {1: [()], 2: [()]}
    assert find_breakers(["end"], Words()) == {4: [()], 5: [(ord("d"),)]}
    assert find_breakers(["d\n", "dx"], Words()) == {4: [(10,), (120,)], 6: [(10,), (120,)]}

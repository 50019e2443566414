"""Budgets of reasoning: what is forced, and when."""

from __future__ import annotations

import numpy as np
import pytest

from gguf_hub.run.generation.reasoning import OpenReasoning
from gguf_hub.run.generation.reasoning_budget import ReasoningBudget
from gguf_hub.run.sampler import Sampler, SamplerConfig
from gguf_hub.run.tokenizer import Tokenizer, load_tokenizer
from tests.run.tokenizer.small import bpe_metadata

CONTROL, USER_DEFINED = 3, 4
HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>")
OPENED = OpenReasoning("</think>")


def tokenizer(*marks: str, kind: int = USER_DEFINED) -> Tokenizer:
    """Return a vocabulary of bytes and marks."""
    return load_tokenizer(bpe_metadata([], dict.fromkeys(marks, kind)))


THINKS = tokenizer("<think>", "</think>")


def written(budget: ReasoningBudget, script: str, known: Tokenizer = THINKS) -> str:
    """Return what is written where the model wants to write a script and is stopped on the way.

    What is forced comes in front of the rest of the script, of which nothing is lost.
    """
    wanted = known.encode(script, add_bos=False, parse_special=True)
    sampler = Sampler(SamplerConfig(temp=0), known, budget)
    ids = []
    while wanted or budget.mask() is not None:
        logits = np.zeros(known.n_vocab, np.float32)
        if wanted:
            logits[wanted[0]] = 9
        ids.append(sampler.choose(logits))
        if wanted and ids[-1] == wanted[0]:
            wanted.pop(0)
    return known.decode(ids, special=True)


@pytest.mark.parametrize(
    ("n_tokens", "script", "text"),
    [
        (4, "<think>abcdefgh", "<think>abcd</think>efgh"),
        (9, "<think>abc</think>defghijklm", "<think>abc</think>defghijklm"),
        (3, "<think>abc</think>d", "<think>abc</think>d"),
        (0, "<think>abc", "<think></think>abc"),
        (2, " \n<think>abc", " \n<think>ab</think>c"),
        (2, "x <think>abc", "x <think>abc"),  # no reasoning for a parser either
        (2, "abc", "abc"),
        (2, "<think>aéb", "<think>aé</think>b"),  # é has two tokens: it is not cut
    ],
)
def test_the_end_is_written_when_the_budget_is_used_up(
    n_tokens: int, script: str, text: str
) -> None:
    assert written(ReasoningBudget(THINKS, n_tokens), script) == text


def test_reasoning_that_the_prompt_begins_is_counted_and_a_message_comes_before_its_end() -> None:
    assert written(ReasoningBudget(THINKS, 0, opened=OPENED), "abc") == "</think>abc"
    budget = ReasoningBudget(THINKS, 2, opened=OPENED, message=" Enough.\n")
    assert written(budget, "abc") == "ab Enough.\n</think>c"


def test_a_mark_of_several_tokens_is_found_and_not_cut() -> None:
    known = tokenizer()
    assert written(ReasoningBudget(known, 3), "<think>abcd", known) == "<think>abc</think>d"
    budget = ReasoningBudget(known, 3)
    assert written(budget, "<think>ab</think>cd", known) == "<think>ab</think>cd"


def test_marks_that_are_control_tokens_count_anywhere_and_anew() -> None:
    known = tokenizer("[THINK]", "[/THINK]", kind=CONTROL)
    text = written(ReasoningBudget(known, 2), "a[THINK]bc[/THINK]d[THINK]efg", known)
    assert text == "a[THINK]bc[/THINK]d[THINK]ef[/THINK]g"


def test_the_channel_of_reasoning_of_gpt_oss_is_counted_and_no_other() -> None:
    known = tokenizer(*HARMONY, kind=CONTROL)
    budget = ReasoningBudget(known, 3, is_harmony=True)
    script = "<|channel|>analysis<|message|>abcd<|start|>x<|channel|>final<|message|>efghijk"
    text = "<|channel|>analysis<|message|>abc<|end|>d<|start|>x<|channel|>final<|message|>efghijk"
    assert written(budget, script, known) == text


def test_drafts_go_on_from_the_same_state_and_leave_it() -> None:
    budget = ReasoningBudget(THINKS, 1, opened=OPENED)
    ahead = budget.ahead()
    ahead.accept(THINKS.encode("a", add_bos=False)[0])
    assert ahead.mask() is not None and budget.mask() is None

"""Prompts for filling in the middle."""

from __future__ import annotations

from gguf_hub.errors import UsageError
from gguf_hub.run.tokenizer.interface import Tokenizer

_JOINT = "☺"  # merges with nothing, so that no space is put in front of the suffix


def encode_infill(tokenizer: Tokenizer, prefix: str, suffix: str) -> list[int]:
    """Return the token ids of a prompt whose answer stands between two texts.

    Source: Bavarian et al. 2022, "PSM"; llama.cpp, tools/server/server-common.cpp,
    ``format_prompt_infill``, without its limit to a part of the suffix.

    Raises:
        UsageError: The vocabulary has no tokens for it.
    """
    vocab = tokenizer.vocab
    if vocab.infill_ids is None:
        raise UsageError(
            "suffix: this model's vocabulary has no tokens for filling in the middle",
            hint="leave it out, or use a model that was trained to fill in",
        )
    before, after, middle = vocab.infill_ids
    begin = [] if tokenizer.begin_id is None else [tokenizer.begin_id]
    joint = tokenizer.encode(_JOINT, add_bos=False)
    rest = tokenizer.encode(_JOINT + suffix, add_bos=False)[len(joint) :]
    return [*begin, before, *tokenizer.encode(prefix, add_bos=False), after, *rest, middle]

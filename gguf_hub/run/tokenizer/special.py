"""Tokens that programs know by their text, whatever type and ids the file gives them.

Source: ``llama_vocab::impl::load`` in src/llama-vocab.cpp of llama.cpp, as bundled with
llama-cpp-python 0.3.36: ``special_eog_ids``, ``special_fim_*`` and the types that it overrides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from itertools import compress

from gguf_hub.gguf.vocabulary import TokenType, VocabularyReader

_BAR, _LOW = "\N{FULLWIDTH VERTICAL LINE}", "\N{LOWER ONE EIGHTH BLOCK}"
_END_TEXTS = frozenset({
    "<|eot_id|>", "<|eom_id|>", "<|im_end|>", "<|end|>", "<|endoftext|>", "<|end_of_text|>",
    "<end_of_turn>", "<EOT>", "< EOT >", "_<EOT>", "[EOT]", "[EOS]", "</s>", "<eos>", "<turn|>",
    "<|return|>", "<|call|>", "<|calls|>", "<|flush|>", "<|tool_response>", "<end_of_utterance>",
    f"<{_BAR}end{_LOW}of{_LOW}sentence{_BAR}>", "[e~[",
})  # fmt: skip
"""Texts that end a turn."""
_FILL_TEXTS: Mapping[str, Sequence[str]] = {
    "pre": ("<|fim_prefix|>", "<fim-prefix>", "<fim_prefix>", f"<{_BAR}fim{_LOW}begin{_BAR}>",
            "<PRE>", f"{_LOW}<PRE>", "<|code_prefix|>", "<|prefix|>"),
    "suf": ("<|fim_suffix|>", "<fim-suffix>", "<fim_suffix>", f"<{_BAR}fim{_LOW}hole{_BAR}>",
            "<SUF>", f"{_LOW}<SUF>", "<|code_suffix|>", "<|suffix|>"),
    "mid": ("<|fim_middle|>", "<fim-middle>", "<fim_middle>", f"<{_BAR}fim{_LOW}end{_BAR}>",
            "<MID>", f"{_LOW}<MID>", "<|code_middle|>", "<|middle|>"),
    "pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "sep": ("<|file_sep|>",),
}  # fmt: skip
"""Part of a text with a gap (``fim_<part>_token_id``) -> the texts of its token."""
_OLD_KEYS = {"pre": "prefix", "suf": "suffix", "mid": "middle"}
_FILL_ENDS = ("pad", "rep", "sep")
"""Parts behind which nothing is to be written."""
_HARMONY_TEXTS = ("<|channel|>", "<|message|>", "<|start|>", "<|constrain|>")
"""What gpt-oss puts around the parts of an answer, which programs read."""
_KNOWN = frozenset({*_END_TEXTS, *_HARMONY_TEXTS, *(t for ts in _FILL_TEXTS.values() for t in ts)})


@dataclass(frozen=True)
class SpecialTokens:
    """What is known of tokens by their texts, and by the ids that a file names.

    Attributes:
        end_ids: What ends a generation.
        infill_ids: What stands before the prefix, the suffix and the middle that a model fills in,
            if it has these tokens.
        types: Types that are other than the file's.
    """

    end_ids: frozenset[int]
    infill_ids: tuple[int, int, int] | None
    types: dict[int, TokenType]


def find_special(reader: VocabularyReader, tokens: Sequence[str]) -> SpecialTokens:
    """Find the special tokens of a vocabulary.

    Args:
        reader: Of the vocabulary; it collects problems.
        tokens: The texts of all tokens.
    """
    ids = {tokens[i]: i for i in compress(range(len(tokens)), map(_KNOWN.__contains__, tokens))}
    types: dict[int, TokenType] = {}
    infill: list[int] = []
    ends = {ids[text] for text in _END_TEXTS & ids.keys()}
    for part, texts in _FILL_TEXTS.items():
        token_id = reader.id(f"fim_{part}", reader.id(_OLD_KEYS.get(part, f"fim_{part}")))
        if token_id is None:
            token_id = min((ids[text] for text in texts if text in ids), default=None)
            if token_id is not None:
                types[token_id] = TokenType.CONTROL
        if token_id is not None and part in _FILL_ENDS:
            ends.add(token_id)
        elif token_id is not None:
            infill.append(token_id)
    types |= dict.fromkeys(ends & set(ids.values()), TokenType.CONTROL)
    types |= {ids[text]: TokenType.USER_DEFINED for text in _HARMONY_TEXTS if text in ids}
    for text, type_ in _not_ends({text for text in ids if ids[text] in ends}).items():
        ends.discard(ids[text])
        types[ids[text]] = type_
    named = (reader.id(name) for name in ("eot", "eom"))
    return SpecialTokens(
        end_ids=frozenset(ends.union(i for i in named if i is not None)),
        infill_ids=(infill[0], infill[1], infill[2]) if len(infill) == len(_OLD_KEYS) else None,
        types=types,
    )


def _not_ends(texts: Set[str]) -> dict[str, TokenType]:
    """Return which of the texts end no turn beside newer ones, and their types."""
    found: dict[str, TokenType] = {}
    is_call = not texts.isdisjoint({"<|call|>", "<|calls|>"})
    if "<|end|>" in texts and is_call and not texts.isdisjoint({"<|return|>", "<|flush|>"}):
        found["<|end|>"] = TokenType.USER_DEFINED  # closes a part of an answer
    if "</s>" in texts and "<|tool_response>" in texts:
        found["</s>"] = TokenType.NORMAL
    return found

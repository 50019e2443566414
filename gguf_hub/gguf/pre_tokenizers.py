"""How byte-pair vocabularies cut a text into words: an entry for each ``tokenizer.ggml.pre``.

The expressions are those of the models' own tokenizers, in the syntax of the package ``regex``.
Each cuts every piece that the one before it left; what lies between two matches is a piece, too.
Where llama.cpp's differ from these, so do its ids: it takes no marks among letters (``gpt-4o``,
``tekken``: Hindi, Bengali, Tamil, Thai, Arabic with marks), nor their case (``kimi-k2``, ``youtu``,
``tiny_aya``), and leaves the text before a number with its first digits (``afmoe``, ``tiny_aya``).

No expression takes longer than the text is long: runs of digits are cut from their right end
(``(?r)``), where a look-ahead to the end of the run for each digit would be quadratic.

Source: ``llm_tokenizer_bpe`` and ``llama_vocab::impl::load`` in src/llama-vocab.cpp of llama.cpp,
as bundled with llama-cpp-python 0.3.36, and the originals that it quotes; tokenization_kimi.py of
Kimi K2; tokenizer.json of DeepSeek LLM (digits one by one).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class PreTokenizer:
    """How a text is prepared for merging."""

    expressions: tuple[str, ...]
    ignore_merges: bool = False
    """A word that is a token is that token, whatever its merges would give."""
    add_bos: bool = False
    """Whether a text begins with the begin token where the file does not say."""
    is_raw: bool = False
    """Spaces become U+2581 and characters are merged as they are, without an alphabet of bytes;
    those that are no token become byte tokens ``<0xNN>``."""
    drops_blanks: bool = False
    """Blanks part words and are lost, and so is what is no token."""
    keeps_line_feeds: bool = False
    """A run of line feeds that is a token is that token."""
    must_add_bos: bool = False
    """A text begins with the begin token even where the file says otherwise."""
    add_sep: bool = False
    """Whether a pair of texts has a token between them where the file does not say."""


_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_BLANKS}"
_QWEN2 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_SYMBOLS}|{_BLANKS}"
_QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_BLANKS}"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased_words(upper: str, lower: str, suffix: str) -> str:
    """Return words whose capitals come first."""
    lead = r"[^\r\n\p{L}\p{N}]?"
    return f"{lead}{upper}*{lower}+{suffix}|{lead}{upper}+{lower}*{suffix}"


_PATHS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
_CASED_WORDS = _cased_words(_UPPER, _LOWER, f"{_CONTRACTIONS}?")
_O200K = rf"{_CASED_WORDS}|\p{{N}}{{1,3}}|{_PATHS}|{_BLANKS}"
_TEKKEN = rf"{_cased_words(_UPPER, _LOWER, '')}|\p{{N}}|{_PATHS}|{_BLANKS}"
_NOT_HAN = r"(?!\p{Han})"
_KIMI = (
    r"\p{Han}+|"
    + _cased_words(rf"(?:{_NOT_HAN}{_UPPER})", rf"(?:{_NOT_HAN}{_LOWER})", f"{_CONTRACTIONS}?")
    + rf"|\p{{N}}{{1,3}}|{_SYMBOLS}|{_BLANKS}"
)
_PUNCTUATED = r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
_MARKED_WORD = r"[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
_DEEPSEEK_WORDS = rf"{_PUNCTUATED}|{_MARKED_WORD}| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_BLANKS}"
_HAN_KANA = r"[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_DEEPSEEK_V3 = (r"\p{N}{1,3}", _HAN_KANA, _DEEPSEEK_WORDS)
_DIGITS = (r"\p{N}", _GPT2)
_LINES = (r"[^\n]+|\n+",)
_NO_SENTENCE = r" ?[^(\s|.,!?…。，、।۔،)]+"
_EAST_ASIAN = r"[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
# letters with case, as far as Unicode 11 had them
_CASED = (
    r"A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293"
    r"\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c"
    r"\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5"
    r"\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    r"\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59"
    r"\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc"
    r"\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107"
    r"\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    r"\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee"
    r"\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e"
    r"\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    r"\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    r"\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_ASIAN = (
    r"\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf"
    r"\u0e40-\u0e7f\u0e80-\u0eff\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af"
    r"\u1100-\u11ff"
)

_GROUPS: tuple[tuple[str, PreTokenizer], ...] = (
    ("llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
     PreTokenizer((_LLAMA3,), ignore_merges=True, add_bos=True)),
    ("smaug-bpe dbrx chatglm-bpe", PreTokenizer((_LLAMA3,))),
    ("glm4 glm5", PreTokenizer((_LLAMA3,), ignore_merges=True)),
    ("minicpm5", PreTokenizer((r"\p{N}{1,3}", _LLAMA3.replace("{1,3}", "+")), ignore_merges=True)),
    ("jais-2", PreTokenizer((
        _LLAMA3.removesuffix(r"|\s+(?!\S)|\s+")
        + "".join(rf"|\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4))
        + r"|\s{1,2}(?!\S)|\s",))),
    ("qwen2 deepseek-r1-qwen kormo f2llmv2 megrez stablelm2 hunyuan solar-open grok-2",
     PreTokenizer((_QWEN2,))),
    ("qwen35", PreTokenizer((_QWEN35,))),
    ("ufakzeka", PreTokenizer((_QWEN2.removeprefix(f"{_CONTRACTIONS}|"),))),
    ("laguna", PreTokenizer((*_LINES, _QWEN2))),
    ("seed-coder", PreTokenizer((
        rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_BLANKS}",))),
    ("bailingmoe bailingmoe2 llada-moe", PreTokenizer((
        rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_SYMBOLS}|\s*[\r\n]|\s+(?!\S)|\s+",))),
    ("exaone-moe", PreTokenizer((
        rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
        r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",))),
    ("gpt-4o llama4 kanana2 talkie minimax-m2", PreTokenizer((_O200K,))),
    ("granite-embed-multi-97m", PreTokenizer((_O200K,), ignore_merges=True)),
    ("tekken", PreTokenizer((_TEKKEN,), ignore_merges=True, add_bos=True)),
    ("kimi-k2", PreTokenizer((_KIMI,))),
    ("youtu", PreTokenizer((
        r"[\uac00-\ud7a3\u3131-\u318e]+|[！…“”‘’—：；，\u3001-\u303f\ufe30-\ufe4f]+|[\u3105-\u312f]+"
        rf"|{_HAN_KANA}",
        _O200K.replace("{1,3}", "")), ignore_merges=True)),
    # digits in threes from the right, if nothing but digits comes before the end of the word
    ("tiny_aya cohere2moe", PreTokenizer((r"(?r)\d{1,3}(?:\b|\G)", _O200K))),
    ("superbpe", PreTokenizer((r"\p{N}+", r"(?r)\d{3}(?:(?!\d)|\G)"))),
    ("afmoe", PreTokenizer((r"(?r)\p{N}{1,3}", rf"[{_ASIAN}]+", _DEEPSEEK_WORDS))),
    ("deepseek-v3 hunyuan-dense hy_v4 joyai-llm", PreTokenizer(_DEEPSEEK_V3)),
    ("spark2_5", PreTokenizer((
        *_DEEPSEEK_V3[:2],
        rf"{_PUNCTUATED}|{_MARKED_WORD}| ?[\p{{P}}\p{{S}}]+|[\r\n]|\s+(?!\S)|\s+", r"\p{N}"))),
    ("deepseek-llm", PreTokenizer((
        r"[\r\n]", rf"\s?[{_CASED}]+", r"\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e‘-‟\u3000-\u3002]+",
        r"(?<!\s)\s++$", _EAST_ASIAN, r"\p{N}"))),
    ("deepseek-coder", PreTokenizer((
        r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _EAST_ASIAN, r"\p{N}"))),
    ("falcon", PreTokenizer((r"[\p{P}$+<=>^~|`]+", _GPT2, r"[0-9]{3}"))),
    ("default", PreTokenizer((r"[\p{P}$+<=>^~|]+", _GPT2, r"\p{N}+", r"[0-9]{3}"))),
    ("gpt-2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de a.x-4.0 mellum modern-bert "
     "mpt olmo jais trillion granite-docling exaone4",
     PreTokenizer((_GPT2,))),
    ("jina-v1-en jina-v2-code roberta-bpe", PreTokenizer((_GPT2,), add_sep=True)),
    ("starcoder refact command-r smollm codeshell exaone minerva-7b mellum2",
     PreTokenizer(_DIGITS)),
    ("poro-chat bloom gpt3-finnish", PreTokenizer((_NO_SENTENCE,))),
    ("viking", PreTokenizer((_NO_SENTENCE, r"\p{N}"))),
    ("chameleon", PreTokenizer((
        r"<sentinel:[0-9]+>", r"IMGIMG[A-I]{1,4}Z", r"[\t\n]|    |  ", r"\p{N}",
        r"[\p{P}!-/:-@\[-`{-~]", _GPT2), add_bos=True)),
    ("gemma4", PreTokenizer(_LINES, is_raw=True, keeps_line_feeds=True,
                            must_add_bos=True)),
    ("granite-embed-multi-311m",
     PreTokenizer(_LINES, is_raw=True, keeps_line_feeds=True, must_add_bos=True)),
    ("sarvam-moe", PreTokenizer(_LINES, is_raw=True)),
    ("whitespace", PreTokenizer((r"[^\S\x1c-\x1f]+",), is_raw=True, drops_blanks=True)),
)  # fmt: skip

PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    name: pre_tokenizer for names, pre_tokenizer in _GROUPS for name in names.split()
}
"""Value of ``tokenizer.ggml.pre`` -> what it stands for."""
NO_PRE_TOKENIZER = PreTokenizer(())
"""Of vocabularies without words."""

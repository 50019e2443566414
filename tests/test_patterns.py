"""Regular expressions of engines that go back and forth: ours alone, and quick on any text.

The engine goes back and forth, so that a text can cost it far more than its length. Patterns from
outside never reach it, and what ours do on texts from outside is tried here.
"""

from __future__ import annotations

import ast
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gguf_hub.errors import UsageError
from gguf_hub.gguf.pre_tokenizers import PRE_TOKENIZERS
from gguf_hub.hub.download.names import is_model, shard_of
from gguf_hub.hub.download.quants import quant_distance, quant_of
from gguf_hub.hub.mirror.ranges import parse_range
from gguf_hub.run.tokenizer.words import WordSplitter
from gguf_hub.units import parse_size

PACKAGE = Path(__file__).resolve().parent.parent / "gguf_hub"
FUNCTIONS = {"compile", "match", "search", "fullmatch", "sub", "subn", "split", "findall",
             "finditer", "template"}  # fmt: skip

BUILT = {
    "run/convert/tensors.py": 1,  # of a record in families/, ours
    "run/quants/tensor_types.py": 1,  # the user's own, of `quantize --tensor-type`
    "api/offload/patterns.py": 1,  # the user's own, of `-ot`; no request or file has one
    "cli/console.py": 1,  # a number of ours
    "gguf/atomic.py": 1,  # an escaped file name
    "hub/client/redaction.py": 1,  # an escaped secret
    "run/generation/harmony.py": 1,  # the marks that end a part of an answer, each escaped
    "run/tokenizer/merging.py": 1,  # one character out of some, each escaped: no way back
    "run/tokenizer/vocab.py": 1,  # the escaped texts of tokens
    "run/tokenizer/words.py": 1,  # those of gguf/pre_tokenizers.py
}


def constants(tree: ast.Module) -> set[str]:
    """Return the names that a module gives to texts, once and for all."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.Assign) and is_constant(node.value, names):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


def is_constant(node: ast.expr, names: set[str]) -> bool:
    """Tell whether an expression is a text that is written down."""
    if isinstance(node, ast.JoinedStr):
        parts = [v.value if isinstance(v, ast.FormattedValue) else v for v in node.values]
        return all(is_constant(part, names) for part in parts)
    if isinstance(node, ast.Name):
        return node.id in names
    return isinstance(node, ast.Constant) and isinstance(node.value, (str, bytes))


def foreign_patterns(source: str) -> list[int]:
    """Return the lines where a pattern is made of what is not written down."""
    tree = ast.parse(source)
    names = constants(tree)
    modules = {"re", "regex"} | {
        alias.asname for node in ast.walk(tree) if isinstance(node, ast.Import)
        for alias in node.names if alias.name in ("re", "regex") and alias.asname
    }  # fmt: skip
    return [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id in modules
        and node.func.attr in FUNCTIONS
        and not (node.args and is_constant(node.args[0], names))
    ]


@pytest.mark.slow
def test_every_pattern_of_pythons_engine_is_written_down() -> None:
    found = {
        path.relative_to(PACKAGE).as_posix(): len(lines)
        for path in sorted(PACKAGE.rglob("*.py"))
        if (lines := foreign_patterns(path.read_text(encoding="utf-8")))
    }
    assert found == BUILT


@pytest.mark.slow
def test_no_module_hides_the_engine_behind_another_name() -> None:
    hidden = [
        path.name
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module in ("re", "regex", "sre_parse")
    ]
    assert hidden == []


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import re\nre.search('a', x)", []),
        ("import re\nA = 'a'\nB = rf'{A}b'\nre.compile(B)\nre.sub(f'{B}+', y, x)", []),
        ("import re\nre.search(x, 'a')", [2]),
        ("import re\ndef f(p):\n    return re.compile(f'{p}+')", [3]),
        ("import re as engine\nengine.fullmatch(pattern=x, string='a')", [2]),
        ("import regex\nregex.compile(x)", [2]),
    ],
)
def test_patterns_from_outside_are_noticed(source: str, lines: list[int]) -> None:
    assert foreign_patterns(source) == lines


def size(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


def words(text: str) -> None:
    for expression in {text for pre in PRE_TOKENIZERS.values() for text in pre.expressions}:
        WordSplitter([expression]).split(text)


HOSTILE: dict[str, tuple[Callable[[str], object], str]] = {
    "a size of blanks": (size, "1" + " " * 100_000 + "!"),
    "quants without an end": (quant_of, "Q1_" * 100_000 + "_"),
    "a quant in a long name": (lambda text: quant_distance(text, "Q4_K"), "Q4_K_" * 200_000),
    "shards": (shard_of, "-00001-of-" * 100_000),
    "sidecars": (is_model, "-mmproj" * 100_000 + ".gguf"),
    "digits before a letter": (words, "1" * 100_000 + "a"),
    "blanks before a letter": (words, " " * 100_000 + "a"),
    "lines before a letter": (words, "\n " * 50_000 + "a"),
    "capitals and marks": (words, "A" * 50_000 + "\u0301" * 50_000 + "1"),
    "ranges": (lambda text: parse_range(text, 10), "bytes=" + " " * 200_000 + "x"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_texts_from_outside_take_no_longer_than_they_are(name: str) -> None:
    function, text = HOSTILE[name]
    began = time.thread_time()
    function(text)
    assert time.thread_time() - began < 6.0

"""GBNF: what it means, and what is said when it is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.errors import GrammarError
from gguf_hub.run.grammar import Grammar
from gguf_hub.run.grammar.gbnf import complement
from gguf_hub.run.grammar.utf8 import byte_sequences

CHESS = r"""
# a game of chess
root ::= (
    # the first move
    "1. " move " " move "\n"
    ([1-9] [0-9]? ". " move " " move "\n")+
)
move   ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn   ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle ::= "O-O" "-O"?
"""

ARITHMETIC = """
root  ::= (expr "=" ws term "\\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \\t\\n]*
"""

CASES = {
    "text": ('root ::= "ab"', ["ab"], ["", "a", "abc", "b"]),
    "alternatives": ('root ::= "a" | "bc" |', ["a", "bc", ""], ["b", "abc"]),
    "alternative in the next line": ('root ::= "a"\n | "b" # c\n |\n "d"', ["a", "b", "d"], ["c"]),
    "sequence and group": ('root ::= ("a" | "b") "c"', ["ac", "bc"], ["c", "ab", "abc"]),
    "group over lines": ('root ::= (\n"a"\n"b" # c\n)\n', ["ab"], ["a"]),
    "star": ('root ::= "ab"*', ["", "ab", "abab"], ["a", "aba"]),
    "plus": ("root ::= [ab]+", ["a", "bb"], ["", "c"]),
    "optional": ('root ::= "a"? "b"', ["ab", "b"], ["a", "aab"]),
    "exact count": ('root ::= "a"{3}', ["aaa"], ["aa", "aaaa"]),
    "least count": ('root ::= "a"{2,}', ["aa", "aaaaa"], ["a"]),
    "count range": ('root ::= ("a" "b"?){1,3}', ["a", "ab", "abaab"], ["", "aaaa", "abb"]),
    "most count": ('root ::= "a"{,2}', ["", "aa"], ["aaa"]),
    "zero count": ('root ::= "x" "a"{0}', ["x"], ["xa"]),
    "count over all": ('root ::= "a"{0,40}', ["", "a" * 40], ["a" * 41]),
    "counts of counts": ('root ::= ("a"{2}){2,3}', ["a" * 4, "a" * 6], ["aa", "a" * 5, "a" * 8]),
    "signs after signs": ('root ::= "a"+? "b"?* "c"?+', ["", "a", "aabbcc"], ["ba", "ca"]),
    "counts after signs": ('root ::= ("a"{2})*', ["", "aa", "aaaa"], ["a", "aaa"]),
    "blanks in counts": ('root ::= "a"{ 1 ,\n2 } "b"{02}', ["abb", "aabb"], ["bb", "ab"]),
    "comments of hash signs": ('root ::= "a" ## #\n#\n## | "b"\n # x\n | "c"', ["a", "c"], ["b"]),
    "empty items": ('root ::= ("a"?){3} "b"', ["b", "ab", "aaab"], ["aaaab"]),
    "loop of nothing": ('root ::= ("a"?)* "b"', ["b", "aaaab"], ["a"]),
    "class": (r"root ::= [a-cx\-\]\\]", ["a", "c", "x", "-", "]", "\\"], ["d", "", "ab"]),
    "class with a dash at its end": ("root ::= [a-]", ["a", "-"], ["b"]),
    "negated class": ("root ::= [^a-y\\n]", ["z", "é", "🦙", " "], ["a", "\n", "zz"]),
    "any": ("root ::= . .", ["ab", "é🦙", "\n\n"], ["a", "abc"]),
    "escapes": (r'root ::= "\x41\u00e9\U0001F999\t\"\\"', ['Aé🦙\t"\\'], ["A"]),
    "wide ranges": ("root ::= [à-ö🦀-🦙]", ["à", "ö", "🦀", "🦙"], ["ß", "÷", "🦚"]),
    "names": ('root ::= a-b_1 A\na-b_1 ::= "x"\nA ::= "y"', ["xy"], ["x"]),
    "recursion": ('root ::= "(" root? ")"', ["()", "((()))"], ["(", "())"]),
    "two ways": ('root ::= "ab" | "a" ("b" | "c")', ["ab", "ac"], ["a"]),
    "comments": ('# one\nroot ::= "a" # two\n# three\n', ["a"], ["#"]),
    "chess": (CHESS, ["1. e4 e5\n2. Nf3 Nc6\n", "1. O-O axb8=Q+\n10. Kh1 O-O-O#\n"], ["1. e4"]),
    "arithmetic": (ARITHMETIC, ["a+1=2\n", "(x1 *3)/y =z\nq=1\n"], ["a+=2\n", "a=b"]),
}  # fmt: skip


@pytest.mark.parametrize(("text", "good", "bad"), CASES.values(), ids=CASES)
def test_a_grammar_accepts_what_it_says(text: str, good: list[str], bad: list[str]) -> None:
    grammar = Grammar.from_gbnf(text)
    assert [t for t in good if not grammar.accepts(t)] == []
    assert [t for t in bad if grammar.accepts(t)] == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no rule `root`"),
        ('a ::= "b"', "no rule `root`, found 1 others"),
        ('root ::= "a', r"line 1, column 10: a text in quotes does not end"),
        ("root ::= [a", r"line 1, column 10: a character class does not end"),
        ('root ::= ("a"', r"line 1, column 14: expected `\)`"),
        ('root ::= "a" )', "line 1, column 14: expected the end of the line, found `\\)`"),
        ('root = "a"', "line 1, column 6: expected `::=`"),
        ('\n\nroot ::= "\\q"', r"line 3, column 11: unknown escape"),
        ('root ::= "\\x4"', "expected 2 hex digits"),
        ('root ::= "\\ud800"', "no such character"),
        ('root ::= "\ud800"', "character 11: expected text, found half of a surrogate pair"),
        ("root ::= [z-a]", "a character range runs backwards"),
        ("root ::= *", "expected something to repeat"),
        ('root ::= "a"{3,2}', "a count runs backwards"),
        ('root ::= "a"{,}', "expected a number"),
        ('root ::= "a"{x}', "expected a count such as"),
        ('root ::= "a"{1 2}', "line 1, column 13: expected a count such as"),
        ('root ::= "a"{9999999999999}', "a count is over 999,999,999"),
        ('root ::= "a"' + "{2}" * 300, "more than 200 repetitions of one item"),
        ('root ::= "a"{1000000000}', "a count is over 999,999,999"),
        ("root ::= <[x]> <>", "expected `<\\[id\\]>` or `<token>`"),
        ("root ::= " + "(" * 300, "nested more than 200 deep"),
        ("::=", "expected a rule name"),
        ('root ::= root "a" | "b"', "rule `root` can begin with itself"),
        ('root ::= a\na ::= "x"? b\nb ::= a "y"', "can begin with itself"),
        ('root ::= (root | "a"){2,3}', "can begin with itself"),
        ('root ::= ("x"? "y"?){2} root', "can begin with itself"),
        ('root ::= "' + "ab" * 50_000 + '"', "too large"),
    ],
    ids=lambda text: text[:24],
)
def test_a_wrong_grammar_is_refused_with_the_place(text: str, problem: str) -> None:
    with pytest.raises(GrammarError, match=problem) as caught:
        Grammar.from_gbnf(text)
    assert caught.value.exit_code == 2


def test_an_unknown_rule_gets_the_nearest_name() -> None:
    with pytest.raises(GrammarError, match="line 1, column 10: no rule `objct`") as caught:
        Grammar.from_gbnf('root ::= objct\nobject ::= "a"')
    assert caught.value.hint == "did you mean `object`?"


POINTS = st.integers(0, 0x10FFFF).filter(lambda c: not 0xD800 <= c <= 0xDFFF)
EDGES = st.sampled_from([0, 0x7F, 0x80, 0x7FF, 0x800, 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF])


@given(a=POINTS | EDGES, b=POINTS | EDGES, c=POINTS | EDGES)
def test_byte_sequences_match_exactly_the_code_points_of_a_range(a: int, b: int, c: int) -> None:
    low, high = sorted((a, b))
    data = chr(c).encode()
    matches = [
        sequence
        for sequence in byte_sequences(((low, high),))
        if len(sequence) == len(data)
        and all(first <= byte <= last for byte, (first, last) in zip(data, sequence, strict=True))
    ]
    assert len(matches) == (low <= c <= high)


@given(c=POINTS, ranges=st.lists(st.tuples(POINTS, POINTS).map(lambda p: tuple(sorted(p)))))
def test_a_character_is_in_a_class_or_in_its_complement(c: int, ranges: list) -> None:
    from gguf_hub.run.grammar.gbnf import normalise

    joined = normalise(ranges)
    inside = any(low <= c <= high for low, high in joined)
    assert inside == any(low <= c <= high for low, high in ranges)
    assert inside != any(low <= c <= high for low, high in complement(joined))


def test_rules_that_begin_with_each_other_are_found_beside_those_that_do_not() -> None:
    chain = "".join(f'r{i} ::= r{i + 1} | "x" r{i}\n' for i in range(50)) + 'r50 ::= "a"\n'
    grammar = Grammar.from_gbnf("root ::= r0\n" + chain)
    assert grammar.accepts("xxa") and not grammar.accepts("ax")
    with pytest.raises(GrammarError, match=r"rule `(r4[0-9]|back)` can begin with itself"):
        Grammar.from_gbnf("root ::= r0\n" + chain.replace('"a"', "back") + 'back ::= "y"? r40\n')

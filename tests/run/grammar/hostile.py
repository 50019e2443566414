"""Grammars and schemas that cost, or once did cost, far more than they look like."""

from __future__ import annotations

import json
from typing import Any


def dag(n: int, key: str = "allOf") -> dict[str, Any]:
    """Return a schema whose parts are each referred to twice: 2**n ways lead to the last."""
    levels: dict[str, Any] = {
        f"L{i}": {key: [{"$ref": f"#/$defs/L{i + 1}"}, {"$ref": f"#/$defs/L{i + 1}"}]}
        for i in range(n)
    }
    levels[f"L{n}"] = {"type": "string"}
    return {"$defs": levels, "$ref": "#/$defs/L0"}


def dag_of_properties(n: int) -> dict[str, Any]:
    """Return two options of which it must be told whether they can hold at once."""
    levels: dict[str, Any] = {}
    for i in range(n):
        following = {"$ref": f"#/$defs/L{i + 1}"}
        levels[f"L{i}"] = {"type": "object", "required": ["x", "y"],
                           "properties": {"x": following, "y": following}}  # fmt: skip
    levels[f"L{n}"] = {"type": "string"}
    first = {"$ref": "#/$defs/L0"}
    return {"$defs": levels, "oneOf": [first, {"allOf": [first], "title": "b"}]}


GRAMMARS: dict[str, tuple[str, str | None]] = {
    "hash_comment_30": ('root ::= "a"\n' + "#" * 30 + '\nx ::= "b"\n', None),
    "hash_comment_24": ('root ::= "a"\n' + "#" * 24 + '\nx ::= "b"\n', None),
    "many_blank_lines": ('root ::= "a"\n' + "\n" * 200000 + 'x ::= "b"\n', None),
    "comment_text": (
        'root ::= "a"\n'
        + "# the next rule is about # signs # and # such # things\n" * 20
        + 'x ::= "b"\n',
        None,
    ),
    "repeat_signs": ('root ::= "a"' + "?" * 100000 + "\n", None),
    "repeat_signs5000": ('root ::= "a"' + "*" * 5000 + "\n", None),
    "nest200": ("root ::= " + "(" * 199 + '"a"' + ")" * 199 + "\n", None),
    "nest200star": ("root ::= " + "(" * 199 + '"a"' + ")*" * 199 + "\n", None),
    "rep_big": ('root ::= "a"{0,100000}\n', None),
    "rep_20000": ("root ::= [a-z]{0,20000}\n", None),
    "rep_nested": ('root ::= ((("a"{0,200}){0,200}){0,200}){0,200}\n', None),
    "rep_nested2": ('root ::= (((("a" | "aa"){0,100} "b"?){0,100} "c"?){0,100})*\n', "a"),
    "leftrec": ('root ::= root "a" | "a"\n', None),
    "leftrec_indirect": ('root ::= b "a"\nb ::= c? root | "x"\nc ::= "y"?\n', None),
    "ambig_stack2": ('root ::= "a" root "b" | "a" root "c" | "d"\n', "a"),
    "ambig_stack3": (
        'root ::= "a" root "b" | "a" root "c" | "a" root "e" | "a" root "f" | "d"\n',
        "a",
    ),
    "ambig_EE": ('root ::= e\ne ::= "a" e e | "a" e | "a"\n', "a"),
    "ambig_unicode": ('root ::= . root . | . root . . | "d"\n', None),
    "rules_chain": (
        "root ::= r0\n"
        + "".join(f"r{i} ::= r{i + 1} | r{i + 1}\n" for i in range(3000))
        + 'r3000 ::= "a"\n',
        None,
    ),
    "rules_20000": (
        "root ::= r0\n"
        + "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(20000))
        + 'r20000 ::= "a"?\n',
        None,
    ),
    "doubling64": (
        "root ::= r0\n"
        + "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(64))
        + 'r64 ::= "a"\n',
        "a",
    ),
    "doubling64opt": (
        "root ::= r0\n"
        + "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(64))
        + 'r64 ::= "a"?\n',
        "a",
    ),
    "alts_50000": ("root ::= " + " | ".join(f'"w{i}"' for i in range(15000)) + "\n", None),
    "alts_prefix": (
        "root ::= " + " | ".join('"' + "a" * (i % 300 + 1) + '"' for i in range(300)) + "\n",
        "a",
    ),
    "wide_class": ("root ::= [" + "".join(chr(0x4E00 + 2 * i) for i in range(8000)) + "]*\n", None),
    "exp_nfa": ('root ::= [ab]* "a" [ab]{18}\n', "a"),
    "exp_nfa40": ('root ::= [ab]* "a" [ab]{40} "c"\n', None),
    "anychar40": ('root ::= .* "a" .{60} "c"\n', None),
    "near_names": (
        "root ::= "
        + "q" * 2000
        + "\n"
        + "".join(("q" * 1990 + str(i)) + ' ::= "a"\n' for i in range(300)),
        None,
    ),
    "token_neg": ("root ::= !<[5]>* \n", None),
    "huge_literal": ('root ::= "' + "a" * 70000 + '"\n', "a"),
    "huge_class_neg": (
        "root ::= [^" + "".join(chr(i) for i in range(0x4E00, 0x9000, 2)) + "]*\n",
        None,
    ),
}

SCHEMAS: dict[str, Any] = {
    "dag_allOf_20": dag(20),
    "dag_allOf_60": dag(60),
    "dag_anyOf_60": dag(60, "anyOf"),
    "dag_oneOf_30": dag(30, "oneOf"),
    "dagprops_25": dag_of_properties(25),
    "dagprops_60": dag_of_properties(60),
    "dagconf_40": {"$defs": dag(40)["$defs"], "enum": ["a"], "not": {"$ref": "#/$defs/L0"}},
    "ref_cycle": {"$ref": "#"},
    "ref_cycle2": {
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
        "$ref": "#/$defs/a",
    },
    "ref_cycle_props": {"type": "object", "required": ["a"], "properties": {"a": {"$ref": "#"}}},
    "ref_cycle_items": {"type": "array", "items": {"$ref": "#"}},
    "minProperties_1e4": {"type": "object", "minProperties": 10000},
    "minProperties_1e5": {"type": "object", "minProperties": 100000},
    "minProperties_1e9": {"type": "object", "minProperties": 10**9},
    "minContains_1e9": {"type": "array", "contains": {"type": "string"}, "minContains": 10**9},
    "minContains_1e12": {"type": "array", "contains": {"type": "string"}, "minContains": 10**12},
    "minItems_1e9": {"type": "array", "minItems": 10**9},
    "maxItems_1e9": {"type": "array", "items": {"type": "integer"}, "maxItems": 10**9},
    "minItems_20000": {
        "type": "array",
        "minItems": 20000,
        "items": {"type": "object", "properties": {"a": {"type": "string"}}},
    },
    "maxLength_1e9": {"type": "string", "maxLength": 10**9},
    "maxLength_1e5": {"type": "string", "maxLength": 10**5},
    "minLength_1e9": {"type": "string", "minLength": 10**9},
    "pattern_rep_len": {"type": "string", "pattern": "^(a|bc){0,100000000}$", "minLength": 5},
    "pattern_low_len": {"type": "string", "pattern": "^a{1000000000}b*$", "minLength": 1000000001},
    "pattern_big": {"type": "string", "pattern": "^a{1000000000}$"},
    "pattern_nested": {"type": "string", "pattern": "^((a{1,50}){1,50}){1,50}$"},
    "pattern_deep": {"type": "string", "pattern": "(" * 500 + "a" + ")" * 500},
    "pattern_deep9000": {"type": "string", "pattern": "(" * 9000 + "a" + ")" * 9000},
    "pattern_alts": {
        "type": "string",
        "pattern": "^(" + "|".join("ab" * i for i in range(1, 400)) + ")*$",
    },
    "redos_enum": {"enum": ["a" * 40 + "!"], "pattern": "^(a|a|aa)+$"},
    "redos_patprop": {
        "type": "object",
        "properties": {"a" * 40 + "!": {}},
        "patternProperties": {"^(a|a|aa)+$": {}},
    },
    "redos_names": {
        "type": "object",
        "properties": {"a" * 40 + "!": {}},
        "propertyNames": {"pattern": "^(a|a|aa)+$"},
    },
    "deep_items": json.loads('{"items":' * 900 + "{}" + "}" * 900),
    "num_range": {"type": "integer", "minimum": -(10**300), "maximum": 10**300},
    "num_range_f": {"type": "number", "minimum": -1e308, "maximum": 1e308},
    "num_float": {"type": "number", "minimum": 1e-300, "maximum": 2e-300},
    "multipleOf": {"type": "integer", "multipleOf": 999983, "minimum": 0, "maximum": 10**12},
    "multipleOf_small": {"type": "number", "multipleOf": 1e-9},
    "multipleOf_big": {"type": "integer", "multipleOf": 10**200},
    "multipleOf_lcm": {
        "allOf": [
            {"type": "integer", "multipleOf": p}
            for p in (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47)
        ]
    },
    "multipleOf_0": {"type": "integer", "multipleOf": 0},
    "enum_10000": {"enum": [f"value {i}" for i in range(10000)]},
    "enum_dup_unique": {"type": "array", "uniqueItems": True, "items": {"enum": list(range(60))}},
    "not_nested": {
        "not": {
            "not": {
                "not": {"not": {"anyOf": [{"type": "string", "minLength": i} for i in range(50)]}}
            }
        }
    },
    "oneOf_200": {
        "oneOf": [
            {"type": "object", "required": ["k"], "properties": {"k": {"const": i}}}
            for i in range(200)
        ]
    },
    "oneOf_1000": {
        "oneOf": [
            {"type": "object", "required": ["k"], "properties": {"k": {"const": i}}}
            for i in range(1000)
        ]
    },
    "anyOf_cross": {
        "allOf": [
            {"anyOf": [{"properties": {f"p{k}{i}": {"type": "string"}}} for i in range(8)]}
            for k in range(2)
        ]
    },
    "if_chain": {
        "allOf": [
            {
                "if": {"properties": {f"a{i}": {"const": 1}}},
                "then": {"properties": {f"b{i}": {"const": 2}}},
                "else": {"required": [f"c{i}"]},
            }
            for i in range(12)
        ]
    },
    "dep_chain": {
        "type": "object",
        "dependentRequired": {f"a{i}": [f"a{i + 1}"] for i in range(12)},
    },
    "props_300": {
        "type": "object",
        "properties": {f"p{i}": {"type": "integer"} for i in range(300)},
        "minProperties": 10,
    },
    "props_5000": {
        "type": "object",
        "properties": {f"p{i}": {"type": "integer"} for i in range(4000)},
    },
    "long_key": {"type": "object", "properties": {"k" * 100000: {"type": "string"}}},
    "unlike": {"not": {"enum": ["x" * i for i in range(300)]}, "type": "string"},
    "bool_keys": {"properties": 5, "required": 7},
    "neg_bounds": {"type": "array", "minItems": -5, "maxItems": -1},
    "nan_bounds": {"type": "string", "minLength": float("nan"), "maxLength": float("inf")},
    "deep_allOf": json.loads('{"allOf":[' * 60 + '{"type":"string"}' + "]}" * 60),
    "format_all": {
        "anyOf": [
            {"type": "string", "format": f}
            for f in (
                "date",
                "time",
                "uuid",
                "ipv4",
                "ipv6",
                "email",
                "hostname",
                "uri",
                "date-time",
            )
        ]
    },
}
GRAMMARS |= {
    "spaces in a count": ('root ::= "a"{' + " " * 30_000 + "x", None),
    "digits in a count": ('root ::= "a"{' + "9" * 30_000 + "}", None),
    "counts of counts": ('root ::= "a"' + "{1}" * 20_000, None),
    "hash signs in a group": ("root ::= (" + "#" * 30 + '\n"a")', None),
    "hash signs before a bar": ('root ::= "a"' + ("\n" + "#" * 30) * 100 + '\n| "b"', None),
    "empty texts": ("root ::= " + '"" ' * 30_000, None),
    "rules in a zigzag": (
        "root ::= r0\n"
        + "".join(f"r{i} ::= r{i + 1}\n" for i in (7919 * j % 3000 for j in range(3000)))
        + 'r3000 ::= "a"\n',
        None,
    ),
    "long text": ('root ::= "' + "a" * 8_000_000 + '"', None),
    "many items": ("root ::= " + '"a" ' * 2_000_000, None),
}
SCHEMAS |= {
    "redos of two kinds": {"enum": ["a" * 40 + "!"], "pattern": "^(?=(a|a|aa)+$)((a*)*)*$"},
    "pattern of a huge count": {
        "type": "object",
        "patternProperties": {"^a{1000000000}$": {}},
        "minProperties": 3,
    },
    "steps": {"allOf": [{"type": "integer", "multipleOf": 10**4000 + i} for i in range(300)]},
    "same names": {
        "anyOf": [{"type": "object", "properties": {"a": {"const": i}}} for i in range(1500)]
    },
    "values of values": {"allOf": [{"enum": list(range(5000))}, {"enum": list(range(5000))}]},
}

SPENT = {"ambig_unicode", "doubling64opt", "many items", "pattern_alts", "rep_nested",
         "rep_nested2"}  # fmt: skip
"""What would go on for minutes or years, were there no budget."""
REFUSED = {
    "ambig_stack2", "ambig_stack3", "bool_keys", "dag_oneOf_30", "dagconf_40",
    "dagprops_25", "dagprops_60", "deep_items", "digits in a count", "leftrec",
    "leftrec_indirect", "long text", "long_key", "multipleOf_0", "nan_bounds", "near_names",
    "num_float", "oneOf_1000", "pattern of a huge count", "props_5000", "redos of two kinds",
    "redos_enum", "ref_cycle", "ref_cycle2", "ref_cycle_props", "rules_20000",
    "same names", "spaces in a count", "unlike", *SPENT,
}  # fmt: skip
"""What is refused, at once or after some tokens; all others are followed."""

"""Texts of a thousand random JSON schemas: does every one parse and satisfy its schema?

    pip install hypothesis-jsonschema hypothesis==6.112.0 jsonschema
    python benchmarks/schemas.py [VOCAB.gguf]

Schemas are made by hypothesis-jsonschema, as instances of a meta-schema: JSON Schema's keywords,
nested so deep, each only beside the type that it speaks of. tiny-mixtral writes one
text for each at temperature 1. Then masks of the vocabulary of VOCAB.gguf are timed along the same
texts. Prints one table, and why schemas were refused.
"""

from __future__ import annotations

import argparse
import json
import re
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import jsonschema
import numpy as np
from hypothesis_jsonschema import from_schema

import gguf_hub
from gguf_hub.errors import GrammarError
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.grammar import Grammar, TokenGrammar, TokenTrie
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.sampler import Sampler, SamplerConfig
from gguf_hub.run.tokenizer import Tokenizer, load_tokenizer

EMBEDDED = Path(gguf_hub.__file__).parent / "data" / "tiny-mixtral.f16.gguf"
MOST_TOKENS = 400
FORMATS = ["date", "time", "date-time", "uuid", "email", "ipv4", "ipv6", "uri", "hostname"]
ANYTHING = SamplerConfig(temp=1, top_k=0, top_p=1, min_p=0, seed=1)


# -- schemas ---------------------------------------------------------------------------------------


def meta_schema(depth: int) -> dict[str, Any]:
    """Return the schema of schemas that are nested ``depth`` deep at most."""
    count = {"type": "integer", "minimum": 0, "maximum": 6}
    bound = {"type": "number", "minimum": -1000, "maximum": 1000}
    pattern = {"type": "string", "format": "regex", "maxLength": 12}
    values = {"type": "array", "minItems": 1, "maxItems": 4, "uniqueItems": True}
    kinds = [
        _typed("string", minLength=count, maxLength=count, pattern=pattern),
        _typed("string", format={"enum": FORMATS}),
        _typed("integer", minimum=bound, maximum=bound, multipleOf={"enum": [1, 2, 3, 7, 10]}),
        _typed("number", minimum=bound, maximum=bound, exclusiveMinimum=bound,
               exclusiveMaximum=bound),
        {"enum": [True, False, {}, {"type": "null"}, {"type": "boolean"}]},
        _keywords(["enum"], {"enum": values}),
        _keywords(["const"], {"const": {}}),
    ]  # fmt: skip
    return {"anyOf": [*kinds, *(_nested(meta_schema(depth - 1), count) if depth else [])]}


def _nested(inner: dict[str, Any], count: dict[str, Any]) -> list[dict[str, Any]]:
    name = {"type": "string", "pattern": "^[a-z]{1,6}$"}
    named = {"type": "object", "propertyNames": name, "additionalProperties": inner,
             "maxProperties": 3}  # fmt: skip
    some = {"type": "array", "items": inner, "minItems": 1, "maxItems": 3}
    names = {"type": "array", "items": name, "maxItems": 2, "uniqueItems": True}
    return [
        _typed("object", properties=named, required=names, additionalProperties=inner,
               minProperties=count, maxProperties=count, propertyNames={"enum": [
                   {"pattern": "^[a-z]+$"}, {"maxLength": 5}, {"minLength": 2}]}),
        _typed("object", properties=named, patternProperties={
            "type": "object", "propertyNames": {"enum": ["^x-", "[0-9]$", "^[a-z]+$"]},
            "additionalProperties": inner, "maxProperties": 2}),
        _typed("array", items=inner, minItems=count, maxItems=count,
               uniqueItems={"type": "boolean"}, contains=inner, prefixItems=some),
        _keywords(["anyOf"], {"anyOf": some}),
        _keywords(["oneOf"], {"oneOf": some}),
        _keywords(["allOf"], {"allOf": some}),
        _keywords(["not"], {"not": inner}),
        _keywords(["if", "then"], {"if": inner, "then": inner, "else": inner}),
    ]  # fmt: skip


def _typed(kind: str, **keywords: Any) -> dict[str, Any]:
    return _keywords(["type"], {"type": {"const": kind}, **keywords})


def _keywords(required: list[str], keywords: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": keywords, "required": required,
            "additionalProperties": False}  # fmt: skip


def random_schemas(n: int, depth: int, seed: int) -> list[Any]:
    """Return ``n`` schemas, no two alike, that jsonschema takes for schemas."""
    found: dict[str, Any] = {}
    strategy = from_schema(meta_schema(depth))
    while len(found) < n:
        seed += 1
        for schema in _drawn(strategy, max(n - len(found), 50), seed):
            jsonschema.Draft202012Validator.check_schema(schema)
            found[json.dumps(schema, sort_keys=True)] = schema
    return list(found.values())[:n]


def _drawn(strategy: Any, n: int, seed: int) -> list[Any]:
    drawn: list[Any] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(max_examples=n, database=None, deadline=None,
                         phases=[hypothesis.Phase.generate],
                         suppress_health_check=list(hypothesis.HealthCheck))  # fmt: skip
    @hypothesis.given(strategy)
    def collect(schema: Any) -> None:
        drawn.append(schema)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collect()
    return drawn


# -- texts -----------------------------------------------------------------------------------------


class Writer:
    """Writes texts that follow grammars, with tiny-mixtral.

    Args:
        file: The model's, open.
        model: The model.
    """

    def __init__(self, file: GgufFile, model: Transformer) -> None:
        self.tokenizer = load_tokenizer(file.metadata)
        self.trie = TokenTrie(self.tokenizer)
        self._model = model
        self._prompt = self.tokenizer.encode("Once upon a time")

    def write(self, grammar: Grammar) -> tuple[str, bool]:
        """Return a text and whether it came to its end within the budget."""
        sampler = Sampler(ANYTHING, self.tokenizer, TokenGrammar(grammar, self.trie).matcher())
        out, position = b"", len(self._prompt)
        logits = self._model.forward(self._prompt, 0)[-1]
        for _ in range(MOST_TOKENS):
            token_id = sampler.choose(logits)
            if token_id in self.tokenizer.eog_ids:
                return out.decode("utf-8"), True
            out += self.tokenizer.token_bytes(token_id)
            logits = self._model.forward([token_id], position)[-1]
            position += 1
        return out.decode("utf-8", errors="ignore"), False


def mask_times(grammar: Grammar, trie: TokenTrie, ids: dict[bytes, int], text: str) -> list[float]:
    """Return CPU seconds of mask and accept for each token of a text, longest tokens first."""
    matcher, data, times = TokenGrammar(grammar, trie).matcher(), text.encode("utf-8"), []
    while data:
        length = next(n for n in range(trie.width, 0, -1) if data[:n] in ids)
        token_id = ids[data[:length]]
        began = time.thread_time()
        allowed = matcher.mask()[token_id]
        matcher.accept(token_id)
        times.append(time.thread_time() - began)
        assert allowed, f"the mask forbids {data[:length]!r}"
        data = data[length:]
    return times


def ids_by_bytes(tokenizer: Tokenizer) -> dict[bytes, int]:
    """Return the token that prints some bytes, for all that any prints."""
    return {tokenizer.token_bytes(i): i for i in reversed(range(tokenizer.n_vocab))}


def problem(text: str, schema: Any) -> str | None:
    """Return what is wrong with a whole text, None when nothing is."""
    try:
        value = json.loads(text)
        jsonschema.Draft202012Validator(schema).validate(value)
    except (ValueError, jsonschema.ValidationError) as exc:
        return f"{type(exc).__name__}: {str(exc).splitlines()[0]}"
    return None


# -- the table -------------------------------------------------------------------------------------


def reason(exc: GrammarError) -> str:
    """Return why a schema was refused, without what is particular to it."""
    text = re.sub(r"^schema, at `[^`]*`: ", "", str(exc))
    return re.sub(r"`[^`]*`|[0-9]+|'.*'", "…", text, flags=re.S)[:100]


def grammars(schemas: list[Any], refused: Counter[str]) -> Iterator[tuple[Any, Grammar, float]]:
    """Yield schema, grammar and the CPU seconds that it took; count the refused by reason."""
    for schema in schemas:
        began = time.thread_time()
        try:
            grammar = Grammar.from_schema(schema, strict=True)
        except GrammarError as exc:
            refused[reason(exc)] += 1
            continue
        yield schema, grammar, time.thread_time() - began


def check(schemas: list[Any], writer: Writer, times: Callable[..., list[float]]) -> None:
    """Write a text for each schema and print what came of them."""
    refused: Counter[str] = Counter()
    whole, cut, wrong, made, masks = 0, 0, 0, [], []
    for schema, grammar, made_s in grammars(schemas, refused):
        text, is_whole = writer.write(grammar)
        made.append(made_s)
        masks += times(grammar, text)
        whole, cut = whole + is_whole, cut + (not is_whole)
        if is_whole and (found := problem(text, schema)):
            wrong += 1
            print(f"WRONG {found}\n  schema {json.dumps(schema)}\n  text {text!r}")
    print(f"{len(schemas)} schemas: {whole} texts to their end, {cut} ended by the budget of "
          f"{MOST_TOKENS} tokens, {sum(refused.values())} refused; {wrong} wrong")  # fmt: skip
    for text, n in refused.most_common():
        print(f"  {n:4} {text}")
    ms = 1e3 * np.array(masks)
    print(f"making a grammar: {1e3 * np.mean(made):.2f} ms")
    print(f"mask and accept: mean {ms.mean():.3f} ms a token of {len(ms)}, "
          f"median {np.median(ms):.3f}, 99 % {np.quantile(ms, 0.99):.2f}, "
          f"worst {ms.max():.1f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("vocab", type=Path, nargs="?", default=EMBEDDED)
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--depth", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    schemas = random_schemas(options.n, options.depth, options.seed)
    with GgufFile.open(options.vocab) as file:
        tokenizer = load_tokenizer(file.metadata)
    trie, ids = TokenTrie(tokenizer), ids_by_bytes(tokenizer)
    with GgufFile.open(EMBEDDED) as file, Transformer.open(file) as model:
        check(schemas, Writer(file, model), lambda g, text: mask_times(g, trie, ids, text))


if __name__ == "__main__":
    main()

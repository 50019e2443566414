"""A small vocabulary made by hand."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings

from gguf_hub.run.tokenizer import Tokenizer, load_tokenizer

# The environment is cleaned once for a test, not for each example: examples leave it alone.
FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def small_metadata(
    pieces: dict[str, float] | None = None,
    special: dict[str, int] | None = None,
    *,
    bytes_too: bool = True,
    **keys: Any,
) -> dict[str, Any]:
    """Metadata of ``<unk> <s> </s>``, byte tokens, pieces by score, special tokens by type."""
    pieces = {"▁": -5.0, "a": -6.0, "b": -7.0, "ab": -1.0} if pieces is None else pieces
    special = special or {}
    fallback = BYTES if bytes_too else []
    tokens = ["<unk>", "<s>", "</s>", *fallback, *pieces, *special]
    scores = [0.0] * (3 + len(fallback)) + list(pieces.values()) + [0.0] * len(special)
    types = [2, 3, 3] + [6] * len(fallback) + [1] * len(pieces) + list(special.values())
    arrays = {"model": "llama", "tokens": tokens, "scores": scores, "token_type": types}
    return {f"tokenizer.ggml.{key}": value for key, value in {**arrays, **keys}.items()}


def small_tokenizer(*args: Any, **keys: Any) -> Tokenizer:
    return load_tokenizer(small_metadata(*args, **keys))

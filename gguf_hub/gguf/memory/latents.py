"""Sizes of latent attention."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Latents:
    """Sizes of multi-head latent attention (arXiv 2405.04434, section 2.1).

    Attributes:
        n_lora_q: Length of the latent of queries; 0 where they have none.
        n_lora_kv: Length of the latent of keys and values.
        n_rot: Part of a head of queries and keys that is rotated; keys share it.
        n_plain: The other part.
        n_value: Length of a head of values.
        is_absorbed: Whether the cache holds the latent itself, as the one key/value head: what
            makes keys of it is multiplied into queries, what makes values into the result.
    """

    n_lora_q: int
    n_lora_kv: int
    n_rot: int
    n_plain: int
    n_value: int
    is_absorbed: bool

"""A vocabulary of numbers: token 7 is the text ``7``, with a space after it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from gguf_hub.run.generation.generation import Generation, GenerationRequest
from gguf_hub.run.generation.logits_sampler import LogitsSampler
from gguf_hub.run.sampler import Sampler, SamplerConfig
from gguf_hub.run.tokenizer import Tokenizer, Vocab


class Numbers:
    """A tokenizer of texts like ``1 2 3``."""

    vocab: Vocab  # of which there is none
    n_vocab = 100
    bos_id = eos_id = None
    eog_ids: frozenset[int] = frozenset()

    def encode(self, text: str, add_bos: bool = True, parse_special: bool = False) -> list[int]:
        return [int(word) for word in text.split()]

    def least_tokens(self, n_characters: int) -> int:
        return 0

    def decode(self, ids: Iterable[int], special: bool = False) -> str:
        return b"".join(map(self.token_bytes, ids)).decode()

    def token_bytes(self, token_id: int, special: bool = False) -> bytes:
        return b"%d " % token_id

    def strip_prefix(self, data: bytes) -> bytes:
        return data

    def is_control(self, token_id: int) -> bool:
        return False


NUMBERS: Tokenizer = Numbers()


def text_after(
    prompt: Sequence[int], n_ctx: int, *, max_tokens: int = -1, stop_ids: Collection[int] = ()
) -> Generation:
    """Return a text whose tokens are the likeliest ones."""
    sampler = LogitsSampler(Sampler(SamplerConfig(temp=0)))
    request = GenerationRequest(tuple(prompt), sampler, max_tokens, stop_ids=stop_ids)
    return Generation(request, NUMBERS, n_ctx)

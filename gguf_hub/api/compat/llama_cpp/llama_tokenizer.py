"""``llama_cpp.llama_tokenizer``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gguf_hub.api.llama import Llama


class BaseLlamaTokenizer(ABC):
    """Text to token ids, and back."""

    @abstractmethod
    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:
        """Return the token ids of UTF-8 text."""

    @abstractmethod
    def detokenize(
        self, tokens: list[int], prev_tokens: list[int] | None = None, special: bool = False
    ) -> bytes:
        """Return the bytes of tokens, in the context of ``prev_tokens``."""


class LlamaTokenizer(BaseLlamaTokenizer):
    """The tokenizer of a GGUF file.

    Args:
        llama: The open model; ``vocab_only`` is enough.
    """

    def __init__(self, llama: Llama) -> None:
        self._llama = llama

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:
        """Return the token ids of UTF-8 text."""
        return self._llama.tokenize(text, add_bos, special)

    def detokenize(
        self,
        tokens: Sequence[int],
        prev_tokens: Sequence[int] | None = None,
        special: bool = False,
    ) -> bytes:
        """Return the bytes of tokens, in the context of ``prev_tokens``."""
        return self._llama.detokenize(tokens, prev_tokens, special)

    def encode(self, text: str, add_bos: bool = True, special: bool = True) -> list[int]:
        """Return the token ids of a text."""
        return self.tokenize(text.encode(errors="ignore"), add_bos, special)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        return self.detokenize(tokens).decode(errors="ignore")

    @classmethod
    def from_ggml_file(cls, path: str) -> LlamaTokenizer:
        """Return the tokenizer of a file."""
        from gguf_hub.api.llama import Llama

        return cls(Llama(path, vocab_only=True, verbose=False))


class LlamaHFTokenizer(BaseLlamaTokenizer):
    """A tokenizer of transformers. ``Llama(tokenizer=...)`` warns that it goes on with its own.

    Args:
        hf_tokenizer: The tokenizer.
    """

    def __init__(self, hf_tokenizer: Any) -> None:
        self.hf_tokenizer = hf_tokenizer

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = True) -> list[int]:
        """Return the token ids of UTF-8 text."""
        given = text.decode(errors="ignore")
        ids: list[int] = self.hf_tokenizer.encode(given, add_special_tokens=special)
        return ids

    def detokenize(
        self,
        tokens: Sequence[int],
        prev_tokens: Sequence[int] | None = None,
        special: bool = False,
    ) -> bytes:
        """Return the bytes of tokens, in the context of ``prev_tokens``."""
        before = [] if prev_tokens is None else list(prev_tokens)
        return self._bytes([*before, *tokens], special)[len(self._bytes(before, special)) :]

    def _bytes(self, tokens: list[int], special: bool) -> bytes:
        text: str = self.hf_tokenizer.decode(tokens, skip_special_tokens=not special)
        return text.encode(errors="ignore")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str) -> LlamaHFTokenizer:
        """Return the tokenizer of a repository; transformers downloads it.

        Raises:
            ImportError: The package transformers is not installed.
        """
        from importlib import import_module

        try:
            tokenizer = import_module("transformers").AutoTokenizer
        except ImportError as exc:
            raise ImportError(
                "LlamaHFTokenizer needs the package transformers: `pip install transformers`"
            ) from exc
        return cls(tokenizer.from_pretrained(pretrained_model_name_or_path))

"""The class ``Llama``.

Source of names, defaults and shapes: llama-cpp-python 0.3.x, llama_cpp/llama.py. Two differences on
purpose: with an empty prompt ``max_tokens`` does not count the begin token, and ``logprobs`` of the
output need no ``logits_all``.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.api.llama import signatures
from gguf_hub.api.llama.completions import Completions
from gguf_hub.api.llama.inputs import text_bytes, token_ids
from gguf_hub.api.llama.parts import LlamaValueError
from gguf_hub.api.llama.signatures import like
from gguf_hub.run.generation.answers import Answer, embeddings
from gguf_hub.run.generation.engine import n_shared
from gguf_hub.run.generation.pooling import EUCLIDEAN, NO_NORM, Pooling, file_pooling, shorten
from gguf_hub.run.generation.ranking import encode_pair, rerank_template
from gguf_hub.run.generation.vectors import Pooler


class Llama(Completions):
    """A model that completes, chats and embeds (see ``LlamaBase`` for the arguments)."""

    # -- text and tokens -------------------------------------------------------------------------

    def tokenize(self, text: bytes | str, add_bos: bool = True, special: bool = False) -> list[int]:
        """Return the token ids of UTF-8 text."""
        text = text_bytes(text)
        if isinstance(text, bytes):
            text = text.decode("utf-8", errors="replace")
        return self.tokenizer_.encode(text, add_bos=add_bos, parse_special=special)

    def detokenize(
        self, tokens: Sequence[int], prev_tokens: Sequence[int] | None = None, special: bool = False
    ) -> bytes:
        """Return the bytes of tokens; ``prev_tokens`` changes nothing, as in llama-cpp-python."""
        token_ids("prev_tokens", () if prev_tokens is None else prev_tokens)
        return self._bytes(token_ids("tokens", tokens), special)

    def _bytes(self, tokens: Sequence[int], special: bool) -> bytes:
        data = b"".join(self.tokenizer_.token_bytes(i, special) for i in tokens)
        starts = len(tokens) > 0 and tokens[0] == self.tokenizer_.bos_id
        return data[1:] if starts and data.startswith(b" ") else data

    def tokenizer(self) -> Any:
        """Return the tokenizer."""
        return self.tokenizer_

    # -- the cache -------------------------------------------------------------------------------

    @property
    def input_ids(self) -> NDArray[np.intc]:
        """Tokens in the cache, and zeros after them, [n_ctx]."""
        ids = np.zeros(self.n_ctx(), np.intc)
        ids[: self.n_tokens] = self.context.engine.cached
        return ids

    @property
    def eval_logits(self) -> list[list[float]]:
        """Logits of the tokens in the cache; of the last alone without ``logits_all``."""
        return self.scores[: self.n_tokens].tolist()  # type: ignore[no-any-return]

    def reset(self) -> None:
        """Clear the cache."""
        self.context.engine.reset()

    def eval(self, tokens: Sequence[int]) -> None:
        """Append tokens to the cache; none change nothing."""
        if ids := token_ids("tokens", tokens):
            with self.context.lock:
                self.context.engine.extend(ids)

    @like(signatures.sample)
    def sample(self, *, idx: int | None = None, **options: Any) -> int:
        """Sample a token from the logits of the last one, or of position ``idx``.

        Raises:
            LlamaValueError: The logits of that position were not kept.
        """
        assert self.n_tokens > 0, "nothing was computed yet"
        if idx in (None, -1, self.n_tokens - 1):
            logits = self.context.last_logits
        elif self._logits_all and -self.n_tokens <= idx < self.n_tokens:
            logits = self.scores[idx % self.n_tokens]
        else:
            raise LlamaValueError(
                f"sample(idx={idx}): expected a position in [0, {self.n_tokens - 1}] whose logits "
                "were kept",
                hint="`logits_all=True` keeps those of all positions, else only the last are there",
            )
        return self.make_sampler(seed=self._seed, **options).choose(logits, self.eval_tokens)

    @like(signatures.generate)
    def generate(
        self,
        tokens: Sequence[int],
        *,
        reset: bool = True,
        stopping_criteria: Any = None,
        **options: Any,
    ) -> Generator[int, Sequence[int] | None, None]:
        """Yield token ids after ``tokens`` endlessly; tokens sent in are appended.

        Args:
            tokens: The prompt.
            reset: Start over; a prefix of the prompt in the cache is reused.
            stopping_criteria: Called with ids and logits; true ends the generator.
            options: See ``sample``.
        """
        sampler = self.make_sampler(seed=self._seed, **options)
        engine = self.context.engine
        ids = token_ids("tokens", tokens)
        logits = engine.prefill(ids) if reset else engine.extend(ids)
        recent = engine.cached
        while True:
            token_id = sampler.choose(logits, recent)
            recent.append(token_id)
            if stopping_criteria and stopping_criteria(np.array(recent[:-1], np.intc), logits):
                return
            sent = yield token_id
            more = token_ids("tokens", () if sent is None else sent)
            recent += more
            logits = self.context.engine.extend([token_id, *more])

    # -- embeddings ------------------------------------------------------------------------------

    def embed(
        self,
        input: str | list[str],
        normalize: bool = False,
        truncate: bool = True,
        return_count: bool = False,
    ) -> Any:
        """Return the embedding of a text, or a list of those of several.

        With ``LLAMA_POOLING_TYPE_RANK`` the embedding is the scores of a reranker.

        Args:
            input: Text or texts.
            normalize: Scale vectors to length 1; scores stay as they are.
            truncate: Truncate texts to the context instead of refusing them.
            return_count: Return (embeddings, number of tokens).

        Raises:
            RuntimeError: The model was opened without ``embedding=True``.
            LlamaValueError: A text is too long.
            UnsupportedGgufError: Scores are wanted, and the model is no reranker.
        """
        self._require_embedding()
        texts = [input] if isinstance(input, str) else input
        norm = EUCLIDEAN if normalize else NO_NORM
        vectors, n_tokens = [], 0
        for text in texts:
            tokens = self.tokenize(text)
            if len(tokens) > self.n_ctx() and not truncate:
                raise LlamaValueError(
                    f"Requested tokens ({len(tokens)}) exceed context window of {self.n_ctx()}"
                )
            tokens = shorten(tokens, self.n_ctx(), self.tokenizer_)
            n_tokens += len(tokens)
            vectors.append(self.pooler.vectors(self._hidden(tokens), norm).tolist())
        result = vectors[0] if isinstance(input, str) else vectors
        return (result, n_tokens) if return_count else result

    def rank(self, query: str, documents: Sequence[str]) -> list[float]:
        """Return how relevant a reranker finds each document; llama-cpp-python lacks this.

        Args:
            query: What is asked.
            documents: Texts.

        Raises:
            RuntimeError: The model was opened without ``embedding=True``.
            UnsupportedGgufError: It is no reranker.
            ContextFullError: A document is too long.
        """
        self._require_embedding()
        classifier, template = self.pooler.classifier, rerank_template(self._metadata)
        pairs = (encode_pair(self.tokenizer_, template, query, text) for text in documents)
        return [float(classifier.scores(self._hidden(tokens))[0]) for tokens in pairs]

    @property
    def has_embeddings(self) -> bool:
        """Whether it was opened with ``embedding=True``."""
        return self._embedding

    def _require_embedding(self) -> None:
        if not self._embedding:
            raise RuntimeError(
                "Llama model must be created with embedding=True to call this method"
            )

    def _hidden(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Return the vectors of a text's tokens, [T, D]."""
        with self.context.lock:
            self.context.engine.reset()
            return self.context.model.embed(tokens)

    @cached_property
    def pooler(self) -> Pooler:
        """What makes vectors or scores of texts."""
        return Pooler(self.context.loaded.file, Pooling(self._pooling_type))

    def create_embedding(self, input: str | list[str], model: str | None = None) -> Answer:
        """Return embeddings in OpenAI's shape."""
        texts = input if isinstance(input, list) else [input]
        vectors, n_tokens = self.embed(texts, return_count=True)
        return embeddings(vectors, model or self.model_path, n_tokens)

    def pooling_type(self) -> int:
        """Return llama.cpp's number of the pooling type."""
        if self._pooling_type != Pooling.UNSPECIFIED:
            return self._pooling_type
        return int(file_pooling(self._metadata))

    # -- properties ------------------------------------------------------------------------------

    @property
    def n_batch(self) -> int:
        """Maximum batch size in tokens."""
        return self.context.model.n_batch

    @property
    def n_threads(self) -> int:
        """Number of threads."""
        return self.context.model.n_threads

    def n_embd(self) -> int:
        """Return the embedding width."""
        return self.context.model.config.n_embd

    def n_vocab(self) -> int:
        """Return the vocabulary size."""
        return self.tokenizer_.n_vocab

    def token_bos(self) -> int:
        """Return the token that begins a text, or -1."""
        return _id_or_minus_one(self.tokenizer_.bos_id)

    def token_eos(self) -> int:
        """Return the token that ends a text, or -1."""
        return _id_or_minus_one(self.tokenizer_.eos_id)

    def token_nl(self) -> int:
        """Return the token of a line break, or -1."""
        ids = self.tokenizer_.encode("\n", add_bos=False)
        return ids[-1] if ids else -1

    @staticmethod
    def logits_to_logprobs(logits: Any, axis: int = -1) -> NDArray[np.float32]:
        """Return the logarithms of the probabilities of logits."""
        values = np.asarray(logits, np.float32)
        shifted = values - values.max(axis=axis, keepdims=True)
        log_sums = np.log(np.exp(shifted).sum(axis=axis, keepdims=True))
        return np.asarray(shifted - log_sums, np.float32)

    @staticmethod
    def longest_token_prefix(a: Sequence[int], b: Sequence[int]) -> int:
        """Return how many leading tokens two sequences share."""
        return n_shared(a, b)

    def close(self) -> None:
        """End the worker threads and close the file."""
        if self._context is not None:
            self._context.close()
            self._context = None

    def __enter__(self) -> Llama:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_context", None) is not None:
            self.close()

    def __getstate__(self) -> dict[str, Any]:
        return self._state

    def __setstate__(self, state: dict[str, Any]) -> None:
        type(self).__init__(self, **state)

    @classmethod
    def from_pretrained(
        cls,
        repo_id: str,
        filename: str | None,
        additional_files: Sequence[str] | None = None,
        local_dir: str | os.PathLike[str] | None = None,
        local_dir_use_symlinks: Any = "auto",
        cache_dir: str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        **kwargs: Any,
    ) -> Llama:
        """Return a model of a repository; missing files are downloaded and verified first.

        Args:
            repo_id: ``org/repo``.
            filename: Name, or a pattern that matches exactly one model of the repository.
            additional_files: Patterns of more files to fetch.
            local_dir: Where to put them; None for the Hugging Face cache.
            local_dir_use_symlinks: Obsolete and ignored.
            cache_dir: Another Hugging Face cache.
            revision: Branch, tag or commit; ``main`` when None.
            kwargs: Arguments of the constructor.

        Raises:
            LlamaValueError: No file, or more than one, matches.
            GgufHubError: The download failed.
        """
        from gguf_hub.api.pretrained import fetch_pretrained

        patterns = [filename or "*.gguf", *(additional_files or ())]
        path = fetch_pretrained(
            repo_id, patterns, local_dir=local_dir, cache_dir=cache_dir, revision=revision
        )
        return cls(model_path=path, **kwargs)


def _id_or_minus_one(token_id: int | None) -> int:
    return -1 if token_id is None else token_id

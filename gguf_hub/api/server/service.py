"""One model behind the routes: its facts, and requests made into tasks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gguf_hub.api.server.bodies import Sampling
from gguf_hub.api.server.flow import settle
from gguf_hub.api.server.scheduler import EmbedSequence, Scheduler
from gguf_hub.api.server.stream import Outbox, Stream
from gguf_hub.api.server.worker import Worker
from gguf_hub.api.server.worker_pool import WorkerPool
from gguf_hub.errors import ContextFullError, UsageError
from gguf_hub.run.chat import ChatFormat, choose_format
from gguf_hub.run.generation import (
    ContextShift,
    Generation,
    GenerationRequest,
    GrammarCache,
    LogitsSampler,
    sampler_config,
)
from gguf_hub.run.sampler import Sampler
from gguf_hub.run.tokenizer import Tokenizer

MAX_BULK_CHARACTERS = 2**20
FALLBACK_FORMAT = "chatml"
"""For models that bring no template, as llama-server takes it."""


@dataclass(frozen=True)
class Facts:
    """What the server tells of its model.

    Attributes:
        name: Under which clients ask for it.
        path: The file.
        description: ``general.name`` and the like, for people.
        n_params: Weights.
        size_bytes: Of the file.
        n_ctx: Positions of each slot.
        n_ctx_train: Positions that the model was trained on.
        n_embd: Width.
        n_vocab: Tokens.
        n_slots: Requests that are computed at once.
        quant: Type of most weights.
        chat_template: The model's own, or empty.
    """

    name: str
    path: str
    description: str
    n_params: int
    size_bytes: int
    n_ctx: int
    n_ctx_train: int
    n_embd: int
    n_vocab: int
    n_slots: int
    quant: str
    chat_template: str = ""


class Service:
    """What routes work with.

    Args:
        facts: Of the model.
        tokenizer: The model's.
        metadata: Of the file, for its template.
        scheduler: Shares the model.
        chat_format: A format by name, in place of the model's template.
        n_keep: Where a context is full, keep so many tokens of the prompt, forget half of the rest
            and go on (see ``ContextShift.after``); requests may say otherwise. None to stop there.
        defaults: Sampling settings of requests that do not name them.
        n_predict: Tokens of an answer, for requests that do not limit it; negative for no limit.

    Attributes:
        pool: Prepares requests; each call is short, because the context bounds every prompt.
        grammar_pool: Prepares requests with a grammar; most of its threads wait, as those whose
            grammar takes long have turns (see ``budget.Lane``).
        bulk: Encodes and decodes texts that no context bounds, so that no prompt waits for them.
    """

    def __init__(
        self,
        facts: Facts,
        tokenizer: Tokenizer,
        metadata: Any,
        scheduler: Scheduler,
        chat_format: str | None = None,
        n_keep: int | None = None,
        *,
        defaults: Mapping[str, Any] = {},
        n_predict: int = -1,
    ) -> None:
        self.facts = facts
        self._defaults, self._n_predict = defaults, n_predict
        self.tokenizer = tokenizer
        self.created = int(time.time())
        self.errors: list[Exception] = []
        self.scheduler = scheduler
        self._outbox = Outbox()
        self.worker = Worker(scheduler, self.errors.append, after_round=self._outbox.flush)
        self.pool = WorkerPool("gguf-hub-requests")
        self.grammar_pool = WorkerPool("gguf-hub-grammars", n_threads=64, n_waiting=64)
        self.bulk = WorkerPool("gguf-hub-bulk", n_threads=1, n_waiting=32)
        self._n_keep = n_keep
        self._grammars = GrammarCache(tokenizer)
        self.chat_format = _chat_format(tokenizer, metadata, chat_format)

    # -- requests --------------------------------------------------------------------------------

    def run(
        self,
        tokens: Sequence[int],
        body: Sampling,
        *,
        max_tokens: int | None,
        stops: Sequence[str],
        n_top: int | None = None,
        schema: Any = None,
        choice: int = 0,
    ) -> Generation:
        """Return the run of a request.

        Args:
            tokens: The prompt.
            body: How tokens are chosen.
            max_tokens: The most; None or negative for as many as the context holds, or, where it
                goes on when it is full, as the model was trained on.
            stops: Texts that end it.
            n_top: How many likely tokens to name at each place; None for none.
            schema: JSON schema of the output, where the body has no grammar.
            choice: Number of the answer; each has a seed of its own.

        Raises:
            ContextFullError: The prompt is too long.
            UsageError: The prompt is empty, or an option cannot be.
        """
        n_ctx = self.facts.n_ctx
        if len(tokens) >= n_ctx:
            raise self._too_long(len(tokens))
        tokens = self._checked(tokens)
        settings = {**self._defaults, **body.settings()}
        if (seed := settings.get("seed")) is not None and seed >= 0:
            settings["seed"] = (seed + choice) % 2**32
        elif seed is not None:
            settings["seed"] = -1
        sampler = Sampler(sampler_config(settings), self.tokenizer, self._constraint(body, schema))
        shift = self._shift(tokens, body)
        job = GenerationRequest(
            prompt=tuple(tokens),
            chooser=LogitsSampler(sampler, n_top=n_top),
            max_tokens=self._most(tokens, max_tokens, shift),
            stops=tuple(stops),
            stop_ids=() if body.ignore_eos else self.tokenizer.eog_ids,
        )
        return Generation(job, self.tokenizer, n_ctx, shift=shift)

    def default_settings(self) -> dict[str, Any]:
        """Return the sampling settings of a request that names none, as llama-server names them."""
        found = asdict(sampler_config(self._defaults))
        del found["logit_bias"]
        limits = {"n_predict": self._n_predict, "max_tokens": self._n_predict}
        return {"temperature": found.pop("temp"), **found, **limits}

    def _shift(self, tokens: Sequence[int], body: Sampling) -> ContextShift | None:
        """Return how a text goes on when its context is full."""
        if self._n_keep is None:
            return None
        n_keep = self._n_keep if body.n_keep is None else body.n_keep
        return ContextShift.after(tokens, n_keep, self.facts.n_ctx, self.tokenizer.bos_id)

    def _most(self, tokens: Sequence[int], wanted: int | None, shift: ContextShift | None) -> int:
        """Return the most tokens of an answer; no text goes on for ever, as in llama-server."""
        if wanted is None or (wanted < 0 and wanted != -2):
            wanted = self._n_predict
        if wanted >= 0 or wanted == -2:
            return wanted
        longest = max(self.facts.n_ctx, self.facts.n_ctx_train)
        return -1 if shift is None else longest - len(tokens)

    def _constraint(self, body: Sampling, schema: Any) -> Any:
        if body.grammar is not None:
            return self._grammars.gbnf(body.grammar)
        return None if schema is None else self._grammars.schema(schema)

    def encode(self, prompt: str | Sequence[int]) -> list[int]:
        """Return the token ids of a prompt; ids stay as they are.

        Raises:
            ContextFullError: It has more tokens than the context.
            UsageError: It is empty, or has a token that the model does not have.
        """
        if isinstance(prompt, str):
            self.check_length(prompt)
            prompt = self.tokenizer.encode(prompt, parse_special=True)
        if len(prompt) > self.facts.n_ctx:
            raise self._too_long(len(prompt))
        return self._checked(prompt)

    def check_bulk_size(self, text: str) -> None:
        """Refuse a text that is too long to be encoded, where no context bounds it.

        Encoding several megabytes would block the interpreter for a second at a time.

        Raises:
            UsageError: The text is too long.
        """
        fits = self.tokenizer.least_tokens(len(text)) <= self.facts.n_ctx
        if len(text) > MAX_BULK_CHARACTERS and not fits:
            raise UsageError(
                f"content: expected at most {MAX_BULK_CHARACTERS} characters, found {len(text)}",
                hint="split it into parts",
            )

    def pool_of(self, body: Sampling) -> WorkerPool:
        """Return the pool in which a request is prepared."""
        return self.grammar_pool if body.has_grammar else self.pool

    def pool_for(self, n_tokens: int) -> WorkerPool:
        """Return the pool for encoding or decoding that many tokens."""
        return self.pool if n_tokens <= self.facts.n_ctx else self.bulk

    def check_length(self, text: str) -> None:
        """Refuse a text that cannot fit the context, without encoding it.

        Raises:
            ContextFullError: Even with the longest tokens there would be too many.
        """
        least = self.tokenizer.least_tokens(len(text))
        if least > self.facts.n_ctx:
            raise self._too_long(least, "at least ")

    def _too_long(self, n_tokens: int, at_least: str = "") -> ContextFullError:
        n_ctx = self.facts.n_ctx
        return ContextFullError(
            f"the prompt has {at_least}{n_tokens} tokens, more than the context of {n_ctx} can "
            "answer: expected fewer",
            n_tokens=n_tokens,
            n_ctx=n_ctx,
            hint="shorten it, or start the server with a larger `-c`",
        )

    def _checked(self, tokens: Sequence[int]) -> list[int]:
        """Return ids that the model can compute."""
        bos = self.tokenizer.bos_id
        found = list(tokens) or ([] if bos is None else [bos])
        if not found:
            raise UsageError("the prompt is empty: expected at least one token")
        wrong = next((i for i in found if not 0 <= i < self.facts.n_vocab), None)
        if wrong is not None:
            raise UsageError(
                f"the prompt has the token {wrong}: expected [0, {self.facts.n_vocab - 1}]"
            )
        return found

    # -- answers ---------------------------------------------------------------------------------

    def start(self, runs: Sequence[Generation], *, is_whole: bool = False) -> Stream:
        """Take runs in, all or none; return where their pieces come out.

        Args:
            runs: The texts of one request.
            is_whole: Whether nobody reads them before they have ended.

        Raises:
            BusyError: Too many are waiting.
        """
        stream = Stream(runs, self._outbox, is_whole=is_whole)
        self.worker.submit(*stream.tasks)
        return stream

    async def embed(self, texts: Sequence[Sequence[int]]) -> list[NDArray[np.float32]]:
        """Return one vector of length 1 for each text, the mean of its last hidden states.

        Args:
            texts: As ``encode`` returns them.

        Raises:
            BusyError: Too many are waiting.
        """
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in texts]
        tasks = [_embed_task(tokens, future) for tokens, future in zip(texts, futures, strict=True)]
        self.worker.submit(*tasks)
        try:
            hidden = await asyncio.gather(*futures)
        finally:
            for task in tasks:
                task.is_cancelled = True
        return [_unit(rows.mean(axis=0)) for rows in hidden]

    def end(self) -> None:
        """Fail open requests and stop computing, without waiting for it."""
        for pool in (self.pool, self.grammar_pool, self.bulk):
            pool.close()
        self.worker.end()

    def close(self) -> None:
        """Fail open requests and wait until nothing is computed any more."""
        self.end()
        self.worker.join()


def _embed_task(
    tokens: Sequence[int], future: asyncio.Future[NDArray[np.float32]]
) -> EmbedSequence:
    return EmbedSequence(
        tokens,
        done=lambda hidden: settle(future, hidden),
        fail=lambda error: settle(future, error=error),
    )


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    length = float(np.linalg.norm(vector))
    return np.asarray(vector / (length or 1.0), np.float32)


def _chat_format(tokenizer: Tokenizer, metadata: Any, name: str | None) -> ChatFormat:
    texts = tokenizer.vocab.tokens
    found = choose_format(
        metadata,
        name,
        bos_token="" if tokenizer.bos_id is None else texts[tokenizer.bos_id],
        eos_token="" if tokenizer.eos_id is None else texts[tokenizer.eos_id],
    )
    fallback = choose_format({}, FALLBACK_FORMAT)
    assert fallback is not None
    return found or fallback

"""Completions and conversations of ``Llama``: from arguments to a text, from a text to answers."""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gguf_hub.api.llama import signatures
from gguf_hub.api.llama.base import LlamaBase
from gguf_hub.api.llama.cache import BaseLlamaCache
from gguf_hub.api.llama.inputs import prompt_of, stop_texts
from gguf_hub.api.llama.parts import LlamaChatCompletionHandlerNotFoundException, LlamaValueError
from gguf_hub.api.llama.signatures import like
from gguf_hub.errors import CacheLostError, GgufHubError, UsageError
from gguf_hub.hub.programs.conversations import choose_chat_format
from gguf_hub.progress import SILENT, LoggedNotes
from gguf_hub.run.chat import ChatFormat
from gguf_hub.run.generation import Generation, GenerationRequest
from gguf_hub.run.generation.answers import Answer, Head, chat_logprobs, usage
from gguf_hub.run.generation.chat import ChatPlan, encode_chat, format_of, modern_tools, plan_chat
from gguf_hub.run.generation.engine import n_shared
from gguf_hub.run.generation.marks import mark_ids
from gguf_hub.run.generation.streams import ChatStream, CompletionStream, chat_answer_choice, gather
from gguf_hub.run.model.token_ids import check_token_ids
from gguf_hub.run.tokenizer import encode_infill

CHAT_TEMPERATURE = 0.2
"""llama-cpp-python's default for conversations; it is 0.8 for completions."""

_CHAT_DEFAULTS = signatures.defaults(signatures.chat)
del _CHAT_DEFAULTS["stream_options"]  # ours alone
"""Options that a handler of conversations is given, whatever the caller leaves out."""

FALLBACK_FORMAT = "llama-2"
"""llama-cpp-python's format for models without a template."""


class Completions(LlamaBase):
    """Text completions and answers in conversations."""

    @like(signatures.constructor)
    def __init__(self, model_path: str | os.PathLike[str], **arguments: Any) -> None:
        super().__init__(model_path, **arguments)
        self._set_chat_format(arguments.get("chat_format"))

    # -- completions -----------------------------------------------------------------------------

    @like(signatures.completion)
    def __call__(self, **options: Any) -> Any:
        """Complete a text (see ``create_completion``)."""
        return self.create_completion(**options)

    @like(signatures.completion)
    def create_completion(
        self,
        prompt: str | Sequence[int],
        *,
        suffix: str | None = None,
        max_tokens: int | None = 16,
        logprobs: int | None = None,
        echo: bool = False,
        stop: str | Sequence[str] | None = None,
        stream: bool = False,
        seed: int | None = None,
        model: str | None = None,
        stopping_criteria: Any = None,
        **sampling: Any,
    ) -> Any:
        """Complete a text.

        Args:
            prompt: Text or token ids.
            suffix: Text after the output, which fills in the middle; the model must have tokens
                for that.
            max_tokens: Maximum number of tokens; None or at most 0 for as many as fit the context.
            logprobs: Number of most likely tokens to return per token; with ``echo`` also for the
                prompt, which needs ``logits_all``.
            echo: Put the prompt in front.
            stop: Texts that end it.
            stream: Return an iterator of chunks.
            seed: RNG seed; the same seed gives the same text.
            model: Model name in the answer.
            stopping_criteria: Called with ids and logits after every token; true ends it.
            sampling: ``temperature``, ``top_p``, ``top_k``, ``grammar`` and so on.

        Returns:
            OpenAI's dictionary, or an iterator of such chunks.

        Raises:
            LlamaValueError: The prompt does not fit the context.
            UsageError: An option is out of its interval.
        """
        if echo and logprobs is not None and not self._logits_all:
            raise LlamaValueError(
                "logprobs is not supported for models created with logits_all=False",
                hint="drop `echo`, or open the model with `logits_all=True`",
            )
        prompt = prompt_of(prompt)
        if suffix and echo and logprobs is not None:
            raise LlamaValueError("echo: a prompt with a suffix has no log probabilities in order")
        if suffix and not isinstance(prompt, str):
            raise LlamaValueError("suffix: expected a prompt of text, found token ids")
        if suffix and isinstance(prompt, str):
            tokens = encode_infill(self.tokenizer_, prompt, suffix)
        else:
            tokens = self._prompt_tokens(prompt)
        generation = self._prepare(
            tokens, max_tokens, stop_texts(stop), stopping_criteria, n_top=logprobs, seed=seed,
            n_prompt_top=logprobs if echo else None, **sampling,
        )  # fmt: skip
        head = Head(model or self.model_path)
        completion = CompletionStream(
            head, self.tokenizer_, generation, prompt, has_echo=echo,
            has_logprobs=logprobs is not None,
        )  # fmt: skip
        if stream:
            return self._stream_text(generation, completion)
        choice = completion.choice(self._deltas(generation))
        return head.text(
            [choice], usage=usage(len(generation.request.prompt), generation.n_generated)
        )

    def _stream_text(
        self, generation: Generation, completion: CompletionStream
    ) -> Iterator[Answer]:
        for delta in self._deltas(generation):
            yield from completion.chunks(delta)

    # -- conversations ---------------------------------------------------------------------------

    @like(signatures.chat)
    def create_chat_completion(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        functions: Sequence[Mapping[str, Any]] | None = None,
        function_call: Any = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: Any = None,
        stream: bool = False,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        response_format: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        model: str | None = None,
        logprobs: bool | None = None,
        top_logprobs: int | None = None,
        stream_options: Mapping[str, Any] | None = None,
        **sampling: Any,
    ) -> Any:
        """Answer a conversation.

        Args:
            messages: Turns with ``role`` and ``content``.
            functions: OpenAI's old name for ``tools``.
            function_call: OpenAI's old name for ``tool_choice``.
            tools: Functions that may be called; their arguments follow their JSON schemas.
            tool_choice: ``"none"``, ``"auto"``, ``"required"``, or the one that must be called.
            stream: Return an iterator of chunks.
            stop: Texts that end it, besides those of the format.
            seed: RNG seed.
            response_format: ``{"type": "json_object", "schema": ...}`` for JSON.
            max_tokens: Maximum number of tokens; None for as many as fit the context.
            model: Model name in the answer.
            logprobs: Whether to return the log probabilities of tokens.
            top_logprobs: Number of most likely tokens to return per token.
            stream_options: ``{"include_usage": True}`` for a last chunk with ``usage``, as
                OpenAI's; handlers of conversations are not given it.
            sampling: ``temperature`` (0.2 here), ``top_p`` and so on.

        Returns:
            OpenAI's dictionary, or an iterator of such chunks.
        """
        options = {
            "functions": functions, "function_call": function_call, "tools": tools,
            "tool_choice": tool_choice, "stream": stream, "stop": stop, "seed": seed,
            "response_format": response_format, "max_tokens": max_tokens, "model": model,
            "logprobs": logprobs, "top_logprobs": top_logprobs, **sampling,
        }  # fmt: skip
        if self.chat_handler is None:
            return self.answer_chat(
                self._chat_format, messages, stream_options=stream_options, **options
            )
        return self.chat_handler(llama=self, messages=messages, **{**_CHAT_DEFAULTS, **options})

    def answer_chat(
        self,
        chat_format: ChatFormat,
        messages: Sequence[Mapping[str, Any]],
        *,
        criteria: Any = None,
        functions: Sequence[Mapping[str, Any]] | None = None,
        function_call: Any = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        tool_choice: Any = None,
        stream: bool = False,
        stop: str | Sequence[str] | None = None,
        seed: int | None = None,
        response_format: Mapping[str, Any] | None = None,
        max_tokens: int | None = None,
        model: str | None = None,
        logprobs: bool | None = None,
        top_logprobs: int | None = None,
        stream_options: Mapping[str, Any] | None = None,
        **sampling: Any,
    ) -> Any:
        """Answer a conversation in a format: ``create_chat_completion``, without a handler.

        ``criteria`` is called with ids and logits after every token; true ends the answer.
        """
        sampling.setdefault("temperature", CHAT_TEMPERATURE)
        if functions is not None or function_call is not None:
            tools, tool_choice = modern_tools(functions, function_call)
        plan = plan_chat(
            chat_format, messages, tools=tools, tool_choice=tool_choice,
            response_format=response_format, control_texts=self.tokenizer_.vocab.control_texts,
        )  # fmt: skip
        for warning in plan.warnings:
            warnings.warn(f"Llama: {warning}", UserWarning, stacklevel=4)
        generation = self._prepare(
            encode_chat(self.tokenizer_, plan.prompt), max_tokens,
            [*stop_texts(stop), *plan.stops], criteria,
            n_top=(top_logprobs or 0) if logprobs else None, seed=seed, schema=plan.schema,
            strict=plan.strict, marks=plan.marks, **sampling,
        )  # fmt: skip
        head = Head(model or self.model_path)
        if stream:
            has_usage = bool((stream_options or {}).get("include_usage"))
            return self._stream_chat(generation, head, plan, bool(logprobs), has_usage)
        return self._chat_answer(generation, head, plan, bool(logprobs))

    def create_chat_completion_openai_v1(self, *args: Any, **options: Any) -> Any:
        """Answer a conversation in the ``openai`` package's own classes."""
        from importlib import import_module

        try:
            types = import_module("openai.types.chat")
        except ImportError as exc:
            raise ImportError(
                "create_chat_completion_openai_v1 needs the package openai: `pip install openai`"
            ) from exc
        answer = self.create_chat_completion(*args, **options)
        if options.get("stream"):
            return (types.ChatCompletionChunk(**chunk) for chunk in answer)
        return types.ChatCompletion(**answer)

    def _chat_answer(
        self, generation: Generation, head: Head, plan: ChatPlan, has_logprobs: bool
    ) -> Answer:
        text, output_logprobs, reason = gather(self._deltas(generation))
        logprobs = chat_logprobs(output_logprobs, self.tokenizer_) if has_logprobs else None
        choice = chat_answer_choice(head, plan, text, reason, logprobs=logprobs, call_form="both")
        return head.chat(
            [choice], usage=usage(len(generation.request.prompt), generation.n_generated)
        )

    def _stream_chat(
        self,
        generation: Generation,
        head: Head,
        plan: ChatPlan,
        has_logprobs: bool,
        has_usage: bool,
    ) -> Iterator[Answer]:
        chat_stream = ChatStream(
            head, self.tokenizer_, plan, has_logprobs=has_logprobs, call_form="both"
        )
        for delta in self._deltas(generation):
            yield from chat_stream.chunks(delta)
        if has_usage:
            cost = usage(len(generation.request.prompt), generation.n_generated)
            yield {**head.chat_chunk([]), "usage": cost}

    # -- what both share -------------------------------------------------------------------------

    def _set_chat_format(self, name: str | None) -> None:
        progress = LoggedNotes() if self.verbose else SILENT
        name = choose_chat_format(Path(self.model_path), self._metadata, name, progress)
        try:
            self._chat_format, is_fallback = format_of(
                self._metadata, name, self.tokenizer_, fallback=FALLBACK_FORMAT
            )
        except UsageError as exc:
            raise LlamaChatCompletionHandlerNotFoundException(exc) from exc
        self.chat_format = name or (FALLBACK_FORMAT if is_fallback else "chat_template.default")

    def _prompt_tokens(self, prompt: str | Sequence[int]) -> list[int]:
        if not isinstance(prompt, str):
            check_token_ids(prompt, range(len(prompt)), self.tokenizer_.n_vocab)
            return list(prompt)
        tokens = self.tokenizer_.encode(prompt, parse_special=True)
        bos = self.tokenizer_.bos_id
        if bos is not None and tokens[:2] == [bos, bos]:
            text = self.tokenizer_.vocab.tokens[bos]
            warnings.warn(
                f'Detected duplicate leading "{text}" in prompt, this will likely reduce response '
                "quality, consider removing it...",
                RuntimeWarning,
                stacklevel=4,
            )
        return tokens or ([] if bos is None else [bos])

    def _prepare(
        self,
        tokens: list[int],
        max_tokens: int | None,
        stops: Sequence[str],
        criteria: Any,
        *,
        seed: int | None,
        n_prompt_top: int | None = None,
        marks: Collection[str] = (),
        **options: Any,
    ) -> Generation:
        """Return the text of these settings, not started yet.

        Raises:
            LlamaValueError: The prompt does not fit the context.
        """
        n_ctx = self.n_ctx()
        if len(tokens) >= n_ctx:
            raise LlamaValueError(
                f"Requested tokens ({len(tokens)}) exceed context window of {n_ctx}",
                hint="open the model with a larger `n_ctx`, or shorten the prompt",
            )
        n_free = n_ctx - len(tokens)
        n_tokens = n_free if max_tokens is None or max_tokens <= 0 else min(max_tokens, n_free)
        sampler = self.make_sampler(seed=self.next_seed() if seed is None else seed, **options)
        if callable(criteria):
            criteria = (criteria,)
        request = GenerationRequest(
            prompt=tuple(tokens),
            sampler=sampler,
            max_tokens=n_tokens,
            stops=tuple(stops),
            stop_ids=self.tokenizer_.eog_ids,
            mark_ids=mark_ids(self.tokenizer_, marks),
            criteria=tuple(criteria or ()),
            n_prompt_top=n_prompt_top,
            completes_characters=True,
        )
        return Generation(request, self.tokenizer_, n_ctx)

    def _deltas(self, generation: Generation) -> Iterator[Any]:
        """Yield the deltas of a text; the cache of states may have a prefix of it."""
        if self.cache is not None:
            self._load_cached_state(self.cache, generation.request.prompt)
        yield from self.context.stream(generation)
        if self.cache is not None:
            with contextlib.suppress(CacheLostError):  # the text is whole all the same
                self._keep_state(self.cache, generation.tokens)

    def _keep_state(self, cache: BaseLlamaCache, tokens: Sequence[int]) -> None:
        state = self.save_state()
        try:
            cache[tokens] = state
        except GgufHubError as exc:  # of a cache on a disk; the text is whole all the same
            warnings.warn(f"Llama: the state is not cached: {exc}", UserWarning, stacklevel=2)

    def _load_cached_state(self, cache: BaseLlamaCache, prompt: Sequence[int]) -> None:
        try:
            state = cache[prompt]
        except KeyError:
            return
        if state.model_id != self.context.model_id:
            return
        shared = n_shared(state.input_ids.tolist(), prompt)
        if self.context.model.has_states and shared < state.n_tokens:
            return  # its state has read more than the prompt has
        if shared > self.context.engine.n_shared(prompt):
            with contextlib.suppress(CacheLostError, UsageError):  # saved by other stages
                self.load_state(state)

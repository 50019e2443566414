"""The measurements of ``perplexity``: models, a text, saved logits."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf_hub.cli import console
from gguf_hub.errors import GgufHubError, UsageError
from gguf_hub.oserrors import reason_of

if TYPE_CHECKING:
    from gguf_hub.gguf.shards import Gguf
    from gguf_hub.progress import Progress
    from gguf_hub.run.perplexity import LogitsReader, ModelSource, Result, Source
    from gguf_hub.run.perplexity.measure import Chunks
    from gguf_hub.run.tokenizer import Tokenizer


class Measuring(contextlib.ExitStack):
    """One run of ``perplexity``; closes all files and models at the end of the block.

    Args:
        options: Those of the command, by name.
        progress: Notified about compiling and chunks.

    Attributes:
        files: Models that were opened, the measured one first.
        seconds: How long their reading of the text took.
    """

    def __init__(self, options: dict[str, Any], progress: Progress) -> None:
        super().__init__()
        self._options = options
        self._progress = progress
        self._text = ""
        self._inputs: list[Path] = []
        self.files: list[Gguf] = []
        self.seconds = 0.0

    def run(self, argument: str) -> Result:
        """Measure the model of an argument.

        Raises:
            GgufHubError: A model, the text or the saved logits cannot be used.
        """
        from gguf_hub.cli.run.prompt import read_text

        if self._options["text_path"]:  # before a model is loaded
            self._text = read_text(self._options["text_path"], "text")
            self._inputs.append(self._options["text_path"])
        if self._options["kl_divergence"]:
            return self._compare_with_saved(argument)
        n_ctx = self._options["ctx_size"]
        model, tokenizer = self._load(argument, n_ctx)
        chunks = self._chunks(tokenizer, n_ctx)
        base = self._load_base(tokenizer, n_ctx) if self._options["base"] else None
        sink = self._sink(chunks, model.n_vocab) if self._options["logits_path"] else None
        return self._measure(chunks, model, base, sink)

    def _compare_with_saved(self, argument: str) -> Result:
        """Measure the tokens in a file of logits, and compare with these logits."""
        reader = self._open_logits()
        n_chunks, n_ctx = reader.chunks.shape
        model, tokenizer = self._load(argument, n_ctx)
        if self._options["text_path"]:
            own = self._chunks(tokenizer, n_ctx, n_chunks)
            _require_same_tokens(argument, reader.chunks, own)
        result = self._measure(reader.chunks, model, reader)
        if reader.n_cut_off:
            console.warn(
                f"{reader.n_cut_off:,} of {result.perplexity.n_scored:,} tokens of the text lie "
                f"below what `{self._options['logits_path']}` holds: the base's perplexity is "
                "higher than this, and the ratio lower; write the file again with gguf-hub"
            )
        return result

    def _measure(
        self, chunks: Chunks, model: ModelSource, base: Source | None, sink: Any = None
    ) -> Result:
        from gguf_hub.run.perplexity import measure

        start_time = time.perf_counter()
        result = measure(chunks, model, base=base, sink=sink, progress=self._progress)
        self.seconds = time.perf_counter() - start_time
        return result

    def _load(self, argument: str, n_ctx: int) -> tuple[ModelSource, Tokenizer]:
        from gguf_hub.cli.run.opening import model_settings
        from gguf_hub.cli.source import fetch_argument
        from gguf_hub.run.kernels.build.build import KernelBuilder
        from gguf_hub.run.opening import open_model
        from gguf_hub.run.perplexity import ModelSource

        options = self._options
        path = fetch_argument(argument, options, self._progress)
        settings = model_settings(options, path, self._progress, n_ctx=n_ctx, n_logits=None)
        builder = KernelBuilder()  # all kernels are compiled before the clock runs
        loaded = self.enter_context(
            open_model(path, settings, builder=builder, is_generating=True, progress=self._progress)
        )
        model, tokenizer = loaded.model, loaded.tokenizer
        self._inputs += [part.path for part in loaded.file.files]
        self.files.append(loaded.file)
        n_ctx_train = model.config.n_ctx_train
        if n_ctx > n_ctx_train:
            console.warn(
                f"chunks of {n_ctx:,} tokens: `{path.name}` was trained on {n_ctx_train:,}"
            )
        return ModelSource(model, model.config.n_vocab, tokenizer.begin_id), tokenizer

    def _load_base(self, tokenizer: Tokenizer, n_ctx: int) -> ModelSource:
        argument = self._options["base"]
        base, base_tokenizer = self._load(argument, n_ctx)
        if list(base_tokenizer.vocab.tokens) != list(tokenizer.vocab.tokens):
            raise UsageError(f"`{argument}` has another vocabulary: expected that of MODEL")
        return base

    def _chunks(self, tokenizer: Tokenizer, n_ctx: int, n_chunks: int | None = None) -> Chunks:
        from gguf_hub.run.perplexity import cut
        from gguf_hub.run.tokenizer import encode_unended

        max_chunks = self._options["chunks"]
        tokens = encode_unended(tokenizer, self._text)
        return cut(tokens, n_ctx, n_chunks or (max_chunks if max_chunks >= 0 else None))

    def _open_logits(self) -> LogitsReader:
        from gguf_hub.run.perplexity import LogitsReader

        path: Path = self._options["logits_path"]
        try:
            return LogitsReader.open(self.enter_context(path.open("rb")), path)
        except OSError as exc:
            raise GgufHubError(f"cannot read `{path}`: {reason_of(exc)}") from exc

    def _sink(self, chunks: Chunks, n_vocab: int) -> Any:
        """Open the file of logits for writing; it appears at the end of the measurement."""
        from gguf_hub.files import require_distinct
        from gguf_hub.run.perplexity import write_logits

        require_distinct([self._options["logits_path"]], self._inputs)
        return self.enter_context(write_logits(self._options["logits_path"], chunks, n_vocab))


def _require_same_tokens(argument: str, saved: Chunks, chunks: Chunks) -> None:
    """Refuse logits of another text or vocabulary."""
    if saved.shape != chunks.shape or (saved != chunks).any():
        raise UsageError(
            f"`{argument}` reads the text as other tokens than the base did: its vocabulary is "
            "another, or that text was",
            hint="compare models of one vocabulary, on the text that the base has read",
        )

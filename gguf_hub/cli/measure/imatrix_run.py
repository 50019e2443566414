"""One run of ``imatrix``: a model, a text, matrices to add to, and the file to write."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf_hub.cli import console
from gguf_hub.errors import UsageError

if TYPE_CHECKING:
    from gguf_hub.progress import Progress
    from gguf_hub.run.imatrix import Measurement
    from gguf_hub.run.opening import LoadedModel
    from gguf_hub.run.perplexity.measure import Chunks
    from gguf_hub.run.quants.imatrix import ImportanceMatrix


def read_one(options: dict[str, Any]) -> ImportanceMatrix:
    """Return the one matrix of ``--in-file``.

    Raises:
        UsageError: There are several.
        GgufError: It cannot be read.
    """
    from gguf_hub.run.quants.imatrix_file import read_imatrix

    if len(options["in_files"]) != 1:
        raise UsageError(
            f"--show-statistics shows one matrix: {len(options['in_files'])} were given",
            hint="without it they are merged",
        )
    return read_imatrix(options["in_files"][0])


def _of_model(matrix: ImportanceMatrix, loaded: LoadedModel) -> ImportanceMatrix:
    """Return the entries of a matrix that are of a model's tensors; name the others.

    Raises:
        GgufError: There is none.
    """
    from gguf_hub.run.quants.imatrix import foreign_text

    shapes = {name: info.shape for name, info in loaded.file.tensors.items()}
    own, foreign = matrix.of_model(shapes)
    if foreign:
        console.note(f"note: `{matrix.path}`: {foreign_text(foreign)}; left out")
    return own


class ImatrixRun(contextlib.ExitStack):
    """Makes or merges importance matrices; closes files and models at the end of the block.

    Args:
        options: Those of the command, by name.
        progress: Notified about compiling and chunks.
    """

    def __init__(self, options: dict[str, Any], progress: Progress) -> None:
        super().__init__()
        self._options = options
        self._progress = progress
        self._output: Path = options["output"]

    def merge(self) -> Measurement:
        """Write the sum of the matrices of ``--in-file``."""
        from gguf_hub.cli.files.outputs import check_outputs
        from gguf_hub.run.imatrix import Measurement
        from gguf_hub.run.quants.imatrix import merge
        from gguf_hub.run.quants.imatrix_file import write_imatrix

        inputs = self._options["in_files"]
        check_outputs([self._output], inputs, force=self._options["force"])
        merged = merge(self._inputs(), self._options["ctx_size"])
        write_imatrix(self._output, merged)
        return Measurement(merged, None)

    def measure(self, argument: str) -> Measurement:
        """Let the model of an argument read the text, and write what enters its products.

        Raises:
            GgufHubError: The model, the text or a matrix cannot be used, or the output exists.
        """
        from gguf_hub.cli.run.prompt import read_text
        from gguf_hub.run.imatrix import measure
        from gguf_hub.run.imatrix.checkpoint import fields_of
        from gguf_hub.run.model.transformer import Transformer
        from gguf_hub.run.quants.imatrix import merge
        from gguf_hub.run.quants.imatrix_file import write_imatrix

        options = self._options
        text = read_text(options["text_path"], "text")  # before a model is loaded
        inputs = self._inputs()
        merge(inputs, options["ctx_size"])  # refuses those of several models
        loaded = self._load(argument)
        before = merge([_of_model(each, loaded) for each in inputs], options["ctx_size"])
        chunks = self._chunks(loaded, text)
        run, checkpoint = self._checkpoint(loaded, chunks, before)
        n_left = checkpoint[1] if checkpoint else len(chunks)
        if checkpoint:
            left = "" if options["no_ppl"] else f"; perplexity is measured on the other {n_left:,}"
            console.note(
                f"note: goes on with `{self._output}`: {len(chunks) - n_left:,} chunks are done"
                + left
            )
            before = merge([checkpoint[0]], options["ctx_size"])

        def save(matrix: ImportanceMatrix, n_done: int) -> None:
            """Write the matrix so far, with how many chunks are still to be read."""
            write_imatrix(self._output, matrix, fields_of(run, len(chunks) - n_done))

        own = [] if checkpoint else [str(options["text_path"])]
        assert isinstance(loaded.model, Transformer)  # no cluster was asked for
        measurement = measure(
            loaded.model,
            loaded.file,
            chunks,
            bos_id=loaded.tokenizer.begin_id,
            before=before,
            datasets=[*before.datasets, *own],
            n_done=len(chunks) - n_left,
            has_output=options["process_output"],
            has_perplexity=not options["no_ppl"],
            save=save,
            save_every=options["output_frequency"],
            progress=self._progress,
        )
        write_imatrix(self._output, measurement.matrix)
        return measurement

    def _inputs(self) -> list[ImportanceMatrix]:
        from gguf_hub.run.quants.imatrix_file import read_imatrix

        return [read_imatrix(path) for path in self._options["in_files"]]

    def _load(self, argument: str) -> LoadedModel:
        from gguf_hub.cli.source import fetch_argument
        from gguf_hub.run.model.settings import ModelSettings
        from gguf_hub.run.opening import open_model

        options = self._options
        path = fetch_argument(argument, options, self._progress)
        settings = ModelSettings(
            n_ctx=options["ctx_size"],
            n_batch=options["batch_size"],
            n_threads=max(0, options["threads"]),
            n_logits=None,
            is_mapped=options["mmap"],
            # of the model, not of a cache: halves send a token in a thousand to another expert
            key_type="F32",
            value_type="F32",
        )
        loaded: LoadedModel = self.enter_context(
            open_model(path, settings, is_generating=True, progress=self._progress)
        )
        return loaded

    def _chunks(self, loaded: LoadedModel, text: str) -> Chunks:
        from gguf_hub.run.perplexity import cut
        from gguf_hub.run.tokenizer import encode_unended

        options, tokenizer = self._options, loaded.tokenizer
        tokens = encode_unended(tokenizer, text, parse_special=options["parse_special"])
        skipped = options["from_chunk"] * options["ctx_size"]
        if skipped and len(tokens) < skipped + 2 * options["ctx_size"]:
            raise UsageError(
                f"--chunk {options['from_chunk']:,} skips {skipped:,} of {len(tokens):,} tokens: "
                "expected two chunks or more behind them",
                hint="skip fewer",
            )
        n_chunks = options["chunks"]
        return cut(tokens[skipped:], options["ctx_size"], n_chunks if n_chunks >= 0 else None)

    def _checkpoint(
        self, loaded: LoadedModel, chunks: Chunks, before: ImportanceMatrix
    ) -> tuple[str, tuple[ImportanceMatrix, int] | None]:
        """Return the identity of this run, and what an earlier one left of it."""
        from gguf_hub.cli.files.outputs import check_outputs
        from gguf_hub.run.imatrix.checkpoint import find_checkpoint, identity_of

        options = self._options
        settings = [options["process_output"], loaded.model.n_batch, *before.datasets]
        run = identity_of(loaded.file, chunks, [before], settings)
        inputs = [*options["in_files"], options["text_path"]]
        inputs += [part.path for part in loaded.file.files]
        check_outputs([self._output], inputs, force=True)
        find = partial(find_checkpoint, self._output, run)
        return run, None if options["force"] else find()

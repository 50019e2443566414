"""A model whose layers other processes compute: tokens in, logits out, as from one ``Transformer``.

Logits are those of one process to the bit. A stage that is gone is placed anew; the caches are lost
then, and ``CacheLostError`` makes the generation loop compute its text so far again.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gguf_hub.errors import CacheLostError, ClusterError, UsageError
from gguf_hub.gguf.shards import Gguf
from gguf_hub.progress import SILENT, Progress
from gguf_hub.run.cluster.hosts import Host
from gguf_hub.run.cluster.pipeline import Answer, Pipeline, StageFailed
from gguf_hub.run.cluster.placing import Stages
from gguf_hub.run.cluster.positions import Positions
from gguf_hub.run.cluster.stage import check_cut
from gguf_hub.run.kernels.vm.sequences import ends_of, sequences_of
from gguf_hub.run.model.config import ModelConfig
from gguf_hub.run.model.limits import cache_read_bytes, check_outputs, check_range, limits_of
from gguf_hub.run.model.settings import DEFAULTS, ModelSettings
from gguf_hub.run.model.token_ids import check_token_ids
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.model.weights import Weights, read_model, require_little_endian

_MIN_PART = 64
"""Tokens of a prompt that are worth a message of their own."""
_PARTS_PER_STAGE = 2
_MAX_FAILURES = 10  # in one call

Logits = NDArray[np.float32]
_T = TypeVar("_T")


class Pending:
    """Logits that stages are computing: of some slots one token each."""

    def __init__(self, answers: Sequence[Answer], ends: Sequence[tuple[int, int]]) -> None:
        self.answers, self.ends = answers, ends


class ClusterModel:
    """A model that stages on other machines compute; used as ``Transformer`` is.

    Attributes:
        config: Sizes of the model.
        n_ctx: Positions that the cache holds.
        n_batch: Tokens of one call to ``forward`` that keep all stages busy.
        n_slots: How many caches there are.
        cache_types: Of keys and values in them.
        has_states: Whether a cache cannot be gone on with from any position (see ``reusable``).
        n_parallel: Into how many groups several texts are best divided (see ``begin_decode``).
    """

    n_gpu_layers = 0

    def __init__(
        self, file: Gguf, config: ModelConfig, weights: Weights, settings: ModelSettings,
        host: Host, progress: Progress = SILENT,
    ) -> None:  # fmt: skip
        self.config = config
        self._limits = limits = limits_of(config.n_ctx_train, settings, 1)
        self.n_ctx, self.n_slots = limits.n_ctx, limits.n_slots
        self.cache_types = limits.key_type, limits.value_type
        self.n_batch = limits.n_batch
        self.has_states = config.has_states
        self.active_bytes = weights.active_bytes(config)
        self._positions = Positions(config, limits)
        self._lost: set[int] = set()
        self._pipeline = Pipeline()
        self.stages = Stages(file, settings, host, self._pipeline, progress)

    @classmethod
    def open(
        cls, file: Gguf, settings: ModelSettings = DEFAULTS, *, host: Host,
        progress: Progress = SILENT,
    ) -> ClusterModel:  # fmt: skip
        """Place the stages of an open model on the nodes of a cluster.

        Args:
            file: The GGUF; of its tensors nothing is read here but what tells it from others.
            settings: How to open it; each node decides on its threads.
            host: The cluster; closed with the model.
            progress: Notified about where layers are placed.

        Raises:
            UnsupportedGgufError: Not a model that runs here, or not one that can be cut.
            ClusterError: The nodes do not hold it, cannot be reached, or have another version.
        """
        settings.check()
        require_little_endian(file)
        config, weights = read_model(file)
        check_cut(config)
        model = cls(file, config, weights, settings, host, progress)
        try:
            model._place()
        except BaseException:
            model.close()
            raise
        return model

    @property
    def n_parallel(self) -> int:
        """How many groups of texts keep all stages busy: one for each stage."""
        return len(self._pipeline.stages)

    @property
    def n_threads(self) -> int:
        """Threads of the stage that has most of them."""
        return max(int(stage.facts["n_threads"]) for stage in self._pipeline.stages)

    # -- computing -------------------------------------------------------------------------------

    def forward(
        self, tokens: Sequence[int], position: int, *, all_logits: bool = False, slot: int = 0
    ) -> Logits:
        """Compute logits of tokens; see ``Transformer.forward``.

        Raises:
            ContextFullError: The tokens do not fit the cache.
            TokenIdError: A token id that the model does not have.
            UsageError: No tokens, no such position or slot, or it cannot be gone back to.
            CacheLostError: A stage failed and was placed anew; compute the slot from position 0 on.
            ClusterError: A stage failed, and nothing holds its layers any more.
        """
        self._check_range(position, len(tokens), slot)
        check_token_ids(tokens, range(position, position + len(tokens)), self.config.n_vocab)

        def run() -> Logits:
            """Send the tokens down the chain and return the last stage's logits."""
            self._require_cache(position, slot)
            return self._send_all(tokens, position, slot, all_logits=all_logits)

        return self._recovering(run)

    def decode(self, rows: Sequence[tuple[int, int, int]]) -> Logits:
        """Compute tokens of several sequences; see ``Transformer.decode``.

        Raises:
            ContextFullError: A token does not fit its cache.
            TokenIdError: A token id that the model does not have.
            UsageError: No such position or slot, or it cannot be gone back to.
            CacheLostError: A stage failed; compute all slots from position 0 on.
            ClusterError: A stage failed, and nothing holds its layers any more.
        """
        return self.end_decode(self.begin_decode(rows))

    def begin_decode(self, rows: Sequence[tuple[int, int, int]]) -> Pending:
        """Let the stages begin with tokens of several sequences; do not wait.

        While the second stage computes them the first is free for those of others. Nothing else
        may be done with these slots before ``end_decode``; errors are those of ``decode``.
        """
        slots, tokens, positions = (list(column) for column in zip(*rows, strict=True))
        for slot, position in zip(slots, positions, strict=True):
            self._check_range(position, 1, slot)
        check_token_ids(tokens, positions, self.config.n_vocab)
        ends = ends_of(sequences_of(zip(slots, positions, strict=True)))

        def run() -> Pending:
            """Send the rows in parts of one pass each; return what is to come."""
            firsts = {slot: positions[slots.index(slot)] for slot in ends}
            for slot, position in firsts.items():
                self._require_cache(position, slot)
            for slot, position in firsts.items():
                self._positions.begin(slot, position)
            self._positions.reach(list(ends.items()))
            most = max(1, min(self._limits.n_batch, self._limits.n_outputs, self._limits.n_rows))
            parts = [rows[at : at + most] for at in range(0, len(rows), most)]
            return Pending([self._send_rows(part) for part in parts], list(ends.items()))

        return self._recovering(run)

    def end_decode(self, pending: Pending) -> Logits:
        """Return the logits of rows, [n, V], for ``begin_decode`` or ``decode``.

        Raises:
            CacheLostError: A stage failed; compute all slots from position 0 on.
        """
        try:
            logits = [self._numbers(answer) for answer in pending.answers]
        except StageFailed:
            return self._recovering(self._report_loss)
        self._positions.arrive(pending.ends)
        return _joined(logits)

    def embed(self, tokens: Sequence[int], slot: int = 0) -> NDArray[np.float32]:
        """Return the normalised hidden state of every token, [len(tokens), D].

        Raises:
            ContextFullError: The tokens do not fit the cache.
        """
        self._check_range(0, len(tokens), slot)
        check_token_ids(tokens, range(len(tokens)), self.config.n_vocab)
        return self._recovering(
            lambda: self._send_all(tokens, 0, slot, all_logits=True, is_hidden=True)
        )

    def _send_all(
        self, tokens: Sequence[int], position: int, slot: int, *, all_logits: bool,
        is_hidden: bool = False,
    ) -> NDArray[np.float32]:  # fmt: skip
        """Send tokens in parts, so that a stage works on one while the next has the one before."""
        size = part_size(len(tokens), self.n_parallel, self._limits.n_batch)
        if all_logits:
            check_outputs(min(size, len(tokens)), self._limits)
        self._positions.begin(slot, position)
        ends, answers = [(slot, position + len(tokens))], []
        self._positions.reach(ends)
        for start in range(0, len(tokens), size):
            part = tokens[start : start + size]
            is_last = start + len(part) == len(tokens)
            answers.append(
                self._pipeline.send({
                    "do": "pass", "tokens": list(map(int, part)), "positions": [position + start],
                    "slots": [slot], "n_outputs": len(part) if all_logits else int(is_last),
                    "is_hidden": is_hidden,
                })
            )  # fmt: skip
        found = [self._numbers(answer) for answer in answers]
        self._positions.arrive(ends)
        return _joined(found)

    def _send_rows(self, rows: Sequence[tuple[int, int, int]]) -> Answer:
        slots, tokens, positions = (list(map(int, column)) for column in zip(*rows, strict=True))
        return self._pipeline.send({
            "do": "pass", "tokens": tokens, "positions": positions, "slots": slots,
            "n_outputs": len(rows), "is_hidden": False,
        })  # fmt: skip

    def _numbers(self, answer: Answer) -> NDArray[np.float32]:
        numbers = self._pipeline.wait(answer).numbers
        assert numbers is not None
        return numbers

    # -- caches ----------------------------------------------------------------------------------

    def reusable(self, n_positions: int, slot: int = 0) -> int:
        """Return how many of the first positions of a cache can be gone on from."""
        if slot in self._lost or self._pipeline.is_broken:
            return 0
        return self._positions.reusable(n_positions, slot)

    def checkpoint(self, n_positions: int, slot: int = 0) -> None:
        """Keep a copy of a slot's state, if it stands there, so that it can be gone back to."""

        def run() -> None:
            """Let every stage keep its state, and note the position."""
            self._require_cache(n_positions, slot)
            self._positions.checkpoint(n_positions, slot)
            self._do({"do": "checkpoint", "n_positions": n_positions, "slot": slot})

        self._recovering(run)

    def copy_cache(self, source: int, target: int, n_positions: int) -> None:
        """Copy the first positions of one slot's cache into another's.

        Raises:
            UsageError: So many cannot be gone on from (see ``reusable``).
            CacheLostError: A stage failed; compute all slots from position 0 on.
        """

        def run() -> None:
            """Copy in every stage; the target's cache counts as whole again."""
            self._require_cache(n_positions, source)
            self._positions.copy(source, target, n_positions)
            self._do({"do": "copy", "source": source, "target": target,
                      "n_positions": n_positions})  # fmt: skip
            self._lost.discard(target)

        self._recovering(run)

    def save_cache(self, n_positions: int, slot: int = 0) -> NDArray[np.uint16]:
        """Return a copy of the first positions of a cache, for ``load_cache`` alone to read.

        Raises:
            UsageError: So many cannot be gone on from (see ``reusable``).
            CacheLostError: A stage failed; compute all slots from position 0 on.
        """

        def run() -> NDArray[np.uint16]:
            """Return the end, the stages' cuts and the caches of all stages, one after another."""
            self._require_cache(n_positions, slot)
            end = np.array([self._positions.end(slot)], np.uint32).view(np.uint16)
            cuts = self._cuts()
            head = {"do": "each", "what": "save", "n_positions": n_positions, "slot": slot}
            parts = [self._pipeline.ask(stage, head).numbers for stage in self._pipeline.stages]
            return np.concatenate([end, cuts, *(part for part in parts if part is not None)])

        return self._recovering(run)

    def cache_size(self, n_positions: int, slot: int = 0) -> int:
        """Return how many numbers ``save_cache`` returns for as many positions."""
        sizes = self._recovering(lambda: self._part_sizes(n_positions, slot))
        return 2 + len(self._cuts()) + sum(sizes)

    def load_cache(self, saved: NDArray[np.uint16], n_positions: int, slot: int = 0) -> None:
        """Restore what ``save_cache`` returned for as many positions, from the same stages."""

        def run() -> None:
            """Give each stage its part, if the saved cuts are those of these stages."""
            cuts = self._cuts()
            first = 2 + len(cuts)
            ends = list(itertools.accumulate(self._part_sizes(n_positions, slot), initial=first))
            if ends[-1] != len(saved) or not np.array_equal(saved[2:first], cuts):
                raise UsageError("the saved cache is that of another model, or of other stages")
            head = {"do": "each", "what": "load", "n_positions": n_positions, "slot": slot}
            for stage, start, end in zip(self._pipeline.stages, ends, ends[1:], strict=False):
                self._pipeline.ask(stage, head, saved[start:end])
            self._positions.load(slot, n_positions, int(saved[:2].copy().view(np.uint32)[0]))
            self._lost.discard(slot)

        self._recovering(run)

    def _cuts(self) -> NDArray[np.uint16]:
        """Return where stages end: a cache is saved stage by stage."""
        ends = [stage.assignment.stage.end or 0 for stage in self.stages.placed]
        return np.array([len(ends), *ends], np.uint16)

    def _part_sizes(self, n_positions: int, slot: int) -> list[int]:
        head = {"do": "each", "what": "size", "n_positions": n_positions, "slot": slot}
        return [self._pipeline.ask(s, head).head["size"] for s in self._pipeline.stages]

    def cache_bytes(self, n_positions: int) -> int:
        """Return the bytes that a token at a position reads of the K/V cache."""
        return cache_read_bytes(self.config.layer_sizes, self.cache_types, n_positions)

    def close(self) -> None:
        """End the stages, and let go of the cluster."""
        self.stages.close()
        self._pipeline.close()

    def __enter__(self) -> ClusterModel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    # -- faults ----------------------------------------------------------------------------------

    def _place(self) -> None:
        """Open the stages that are not open."""
        self.stages.place()
        self._positions.forget()
        # a batch for each stage: as long as one machine takes for one, when all of them are busy
        self.n_batch = min(self.n_ctx, self._limits.n_batch * len(self._pipeline.stages))

    def _do(self, head: dict[str, object]) -> None:
        self._pipeline.wait(self._pipeline.send(head))

    def _recovering(self, run: Callable[[], _T]) -> _T:
        """Do what needs the stages; those that are gone are placed anew first, and after.

        Raises:
            ClusterError: Nothing holds their layers any more, or they fail again and again.
        """
        for _ in range(_MAX_FAILURES):
            if self._pipeline.is_broken or not self._pipeline.stages:
                self._lost = set(range(self.n_slots))
                self._place()
            try:
                return run()
            except StageFailed:
                self._lost = set(range(self.n_slots))
                # so that what failed is known before it is placed anew
                time.sleep(0.01)
                self._pipeline.is_broken = True
        raise ClusterError(f"stages failed {_MAX_FAILURES} times in one call",
                           hint="`gguf-hub cluster status` shows the nodes")  # fmt: skip

    def _report_loss(self) -> Logits:
        raise CacheLostError("the caches were lost with a stage: they are computed anew")

    def _require_cache(self, n_positions: int, slot: int) -> None:
        if slot in self._lost:
            if n_positions:
                raise CacheLostError(f"the cache of slot {slot} was lost with a stage")
            self._lost.discard(slot)

    def _check_range(self, position: int, n_tokens: int, slot: int) -> None:
        check_range(position, n_tokens, slot, self._limits)


def _joined(parts: Sequence[Logits]) -> Logits:
    """Return parts one after another; a single one, the most common, is not copied."""
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def part_size(n_tokens: int, n_stages: int, n_batch: int) -> int:
    """Return how many tokens of a prompt to send at once.

    Two parts for each stage keep three quarters of them busy; smaller ones waste what a pass over
    the weights costs.
    """
    if n_stages == 1:
        return n_batch
    parts = _PARTS_PER_STAGE * n_stages
    return min(n_batch, max(_MIN_PART, -(-n_tokens // parts)))


Model = Transformer | ClusterModel
"""A model that is ready to compute, here or on several machines."""

"""Which file of a model fits a memory, and which of those to take: arithmetic, no measuring.

Takes facts about files and bytes of memory, returns data. What a file is comes from the catalog,
what the machine has from ``hardware``; neither is looked at here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal, get_args

from gguf_hub.catalog import Catalog, CatalogFile, ModelShape, bytes_by_role, tensor_groups
from gguf_hub.errors import UsageError
from gguf_hub.units import GB

Policy = Literal["balanced", "quality", "fast"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

EQUAL_WITHIN = 0.01  # balanced: losses this close to the best count as equal
FAST_WITHIN = 0.10  # fast: how much worse than the best a file may be
KV_TYPE_BYTES = 2  # keys and values are kept as f16
N_BATCH = 512  # tokens of the prompt that are computed at once


class Verdict(str, Enum):
    """Where a file can be run from."""

    VRAM = "fits in VRAM"
    RAM = "fits in RAM"
    TOO_BIG = "too big"


@dataclass(frozen=True)
class FileFacts:
    """What deciding needs to know of one file, wherever that knowledge comes from.

    Attributes:
        embedding_bytes: The table of token embeddings: in memory, but a token reads one row of it.
        dense_bytes: What every token reads: attention, norms, router, output.
        expert_bytes: The feed-forward tensors of all experts (of the one, in a dense model).
        are_parts_estimated: The sum is right, but its parts were split by count of weights.
    """

    quant: str
    filename: str
    shape: ModelShape
    embedding_bytes: int
    dense_bytes: int
    expert_bytes: int
    are_parts_estimated: bool
    perplexity: float | None
    is_perplexity_estimated: bool
    is_recommended: bool

    @property
    def weights_bytes(self) -> int:
        """All tensors."""
        return self.embedding_bytes + self.dense_bytes + self.expert_bytes

    @property
    def active_bytes(self) -> int:
        """Bytes of weights that one generated token reads: of the experts only those used."""
        shape = self.shape
        if not shape.n_expert:
            return self.dense_bytes + self.expert_bytes
        return self.dense_bytes + self.expert_bytes * shape.n_expert_used // shape.n_expert


@dataclass(frozen=True)
class Need:
    """The memory that running a file takes, by what takes it."""

    weights_bytes: int
    kv_bytes: int
    scratch_bytes: int

    @property
    def total_bytes(self) -> int:
        """The sum."""
        return self.weights_bytes + self.kv_bytes + self.scratch_bytes


@dataclass(frozen=True)
class Fit:
    """One file against one memory."""

    facts: FileFacts
    n_ctx: int
    need: Need
    verdict: Verdict

    @property
    def is_fitting(self) -> bool:
        """It can be run here."""
        return self.verdict is not Verdict.TOO_BIG


@dataclass(frozen=True)
class Pick:
    """All files of a model against one memory, and the one to take (None when none fits)."""

    fits: tuple[Fit, ...]
    chosen: Fit | None
    reason: str


# ---- facts -------------------------------------------------------------------------------------

_PART_OF_ROLE = {"token_embd": "embedding", "ffn": "expert"}  # every other role is dense


def facts_from_catalog(catalog: Catalog, file: CatalogFile) -> FileFacts:
    """Return the facts of a catalog file.

    Without a recipe the parts are split by their count of weights, as if all had the same type.
    """
    shape = catalog.architecture
    if file.recipe is not None:
        by_role = bytes_by_role(shape, file.recipe)
    else:
        by_role = _bytes_by_weights(shape, file.tensor_bytes)
    parts = {"embedding": 0, "dense": 0, "expert": 0}
    for role, size_bytes in by_role.items():
        parts[_PART_OF_ROLE.get(role, "dense")] += size_bytes
    perplexity = file.perplexity
    return FileFacts(
        quant=file.quant,
        filename=file.filename,
        shape=shape,
        embedding_bytes=parts["embedding"],
        dense_bytes=parts["dense"],
        expert_bytes=parts["expert"],
        are_parts_estimated=file.recipe is None,
        perplexity=perplexity.value if perplexity else None,
        is_perplexity_estimated=bool(perplexity and perplexity.is_estimated),
        is_recommended=file.is_recommended,
    )


def _bytes_by_weights(shape: ModelShape, total_bytes: int) -> dict[str, int]:
    """Split ``total_bytes`` over the roles by their weights; the parts add up to the total."""
    weights: dict[str, int] = {}
    for group in tensor_groups(shape):
        weights[group.role] = weights.get(group.role, 0) + group.n_weights
    n_weights = sum(weights.values())
    parts = {role: total_bytes * n // n_weights for role, n in weights.items()}
    parts["ffn"] += total_bytes - sum(parts.values())
    return parts


# ---- memory ------------------------------------------------------------------------------------


def need_of(facts: FileFacts, n_ctx: int) -> Need:
    """Return the memory that the file takes at a context of ``n_ctx`` tokens.

    ::

        weights = all tensors, as the mapped file must stay in memory to be fast
        kv      = 2 (K and V) x n_layer x n_head_kv x head_dim x n_ctx x 2 bytes (f16)
        scratch = N_BATCH x n_head x n_ctx x 4 bytes: attention scores of one batch, f32

    E.g. Mixtral-8x7B at 4096 tokens: 537 MB of KV and 268 MB of scratch beside the weights.

    Source: llama.cpp's KV cache and its KQ buffer without flash attention, the largest of a graph.
    """
    shape = facts.shape
    kv_bytes = 2 * shape.n_layer * shape.n_head_kv * shape.head_dim * n_ctx * KV_TYPE_BYTES
    scratch_bytes = N_BATCH * shape.n_head * n_ctx * 4
    return Need(facts.weights_bytes, kv_bytes, scratch_bytes)


def fit_file(facts: FileFacts, *, n_ctx: int, ram_bytes: int, vram_bytes: int = 0) -> Fit:
    """Judge one file.

    Args:
        facts: What the file is.
        n_ctx: Tokens of context.
        ram_bytes: Memory that the model may use.
        vram_bytes: The same on the GPU; 0 without one.
    """
    need = need_of(facts, n_ctx)
    verdict = Verdict.TOO_BIG
    if need.total_bytes <= ram_bytes:
        verdict = Verdict.RAM
    if need.total_bytes <= vram_bytes:
        verdict = Verdict.VRAM
    return Fit(facts, n_ctx, need, verdict)


def largest_n_ctx(facts: FileFacts, limit_bytes: int) -> int:
    """Return the most tokens of context with which the file stays within a memory; 0 for none."""
    per_token_bytes = need_of(facts, 1).total_bytes - facts.weights_bytes
    return max(0, (limit_bytes - facts.weights_bytes) // per_token_bytes)


# ---- choice ------------------------------------------------------------------------------------


def pick(
    catalog: Catalog, *, n_ctx: int, ram_bytes: int, vram_bytes: int = 0, policy: str = "balanced"
) -> Pick:
    """Judge every file of a catalog and choose one.

    Args:
        catalog: The files.
        n_ctx: Tokens of context.
        ram_bytes: Memory that the model may use.
        vram_bytes: The same on the GPU; 0 without one.
        policy: ``balanced``, ``quality`` or ``fast``, see ``choose``.

    Raises:
        UsageError: There is no such policy.
    """
    facts = [facts_from_catalog(catalog, file) for file in catalog.files]
    fits = tuple(
        fit_file(each, n_ctx=n_ctx, ram_bytes=ram_bytes, vram_bytes=vram_bytes) for each in facts
    )
    chosen = choose(fits, policy)
    limit = f"{_gb(ram_bytes)} of RAM" + (f" or {_gb(vram_bytes)} of VRAM" if vram_bytes else "")
    return Pick(fits, chosen, _reason(fits, chosen, policy, limit))


def choose(fits: Sequence[Fit], policy: str = "balanced") -> Fit | None:
    """Return the one to take of the files that fit, or None when none does.

    - ``balanced``: all within 1 % of the best perplexity count as equal; the card's recommendation
      decides among them, then the smaller file.
    - ``quality``: the best perplexity, estimated ones included.
    - ``fast``: the fewest bytes read per token, within 10 % of the best perplexity.

    Files without a figure stand back behind those with one. Where none has a figure, the larger is
    taken for the better, and ``fast`` falls back to ``balanced``, as nothing bounds the loss.

    Raises:
        UsageError: There is no such policy.
    """
    if policy not in POLICIES:
        known = ", ".join(f"`{name}`" for name in POLICIES)
        raise UsageError(f"no such policy: `{policy}`", hint=f"expected one of {known}")
    fitting = [fit for fit in fits if fit.is_fitting]
    measured = [fit for fit in fitting if fit.facts.perplexity is not None]
    if measured:
        return _choose_measured(measured, policy)
    is_by_card = policy != "quality"
    return max(
        fitting,
        key=lambda fit: (is_by_card and fit.facts.is_recommended, fit.facts.weights_bytes),
        default=None,
    )


def _choose_measured(fits: Sequence[Fit], policy: Policy) -> Fit:
    keys: dict[Policy, Callable[[FileFacts], tuple[float, ...]]] = {
        "balanced": lambda facts: (not facts.is_recommended, facts.weights_bytes, _ppl(facts)),
        "quality": lambda facts: (_ppl(facts), facts.weights_bytes),
        "fast": lambda facts: (facts.active_bytes, not facts.is_recommended, _ppl(facts)),
    }
    within = {"balanced": EQUAL_WITHIN, "quality": 0.0, "fast": FAST_WITHIN}[policy]
    limit = min(_ppl(fit.facts) for fit in fits) * (1 + within)
    good = [fit for fit in fits if _ppl(fit.facts) <= limit]
    return min(good, key=lambda fit: keys[policy](fit.facts))


def best_of(fits: Sequence[Fit]) -> FileFacts | None:
    """Return the file with the lowest perplexity, whether it fits or not; None without figures."""
    measured = [fit.facts for fit in fits if fit.facts.perplexity is not None]
    return min(measured, key=_ppl, default=None)


def loss_against(facts: FileFacts, best: FileFacts | None) -> float | None:
    """Return by how much the perplexity is above that of ``best`` (0.036 for 3.6 %), or None."""
    if best is None or best.perplexity is None or facts.perplexity is None:
        return None
    return facts.perplexity / best.perplexity - 1


def _ppl(facts: FileFacts) -> float:
    """The perplexity of a file that is known to have one."""
    assert facts.perplexity is not None
    return facts.perplexity


# ---- the reason, in one sentence ---------------------------------------------------------------


def _reason(fits: Sequence[Fit], chosen: Fit | None, policy: str, limit: str) -> str:
    if chosen is None:
        smallest = min(fits, key=lambda fit: fit.need.total_bytes)
        return (
            f"none of the {len(fits)} files fits {limit}: "
            f"{smallest.facts.quant}, the smallest, needs {_gb_up(smallest.need.total_bytes)} "
            f"at {smallest.n_ctx} tokens of context"
        )
    merit = _merit(fits, chosen, policy, limit)
    # who asks for speed has already left better files that fit
    bigger = "" if policy == "fast" else _next(fits, chosen)
    return f"{chosen.facts.quant}: {merit}{bigger}"


def _merit(fits: Sequence[Fit], chosen: Fit, policy: str, limit: str) -> str:
    """Say why it was chosen of those that fit."""
    facts = chosen.facts
    best = best_of([fit for fit in fits if fit.is_fitting])
    if best is None:
        is_by_card = facts.is_recommended and policy != "quality"
        return (
            f"{'the card recommends it and it' if is_by_card else 'the largest that'} fits {limit}"
        )
    if best is facts:
        return f"the best that fits {limit}"
    if policy == "fast":
        return (
            f"{_gb(facts.active_bytes)} read per token, the fewest within "
            f"{_percent(FAST_WITHIN)} of {best.quant}, the best that fits {limit}"
        )
    word = "recommended by the card, and" if facts.is_recommended else "the smallest that is"
    return f"{word} within {_percent(EQUAL_WITHIN)} of {best.quant}, the best that fits {limit}"


def _next(fits: Sequence[Fit], chosen: Fit) -> str:
    """Name the next better file that is too big, and what it would bring."""
    best = best_of(fits)
    mine = loss_against(chosen.facts, best)
    better = [
        fit
        for fit in fits
        if not fit.is_fitting
        and fit.facts.perplexity is not None
        and chosen.facts.perplexity is not None
        and fit.facts.perplexity < chosen.facts.perplexity
    ]
    if not better or best is None or mine is None:
        return ""
    other = min(better, key=lambda fit: (fit.need.total_bytes, not fit.facts.is_recommended))
    loss = loss_against(other.facts, best) or 0.0
    needs = f"needs {_gb_up(other.need.total_bytes)}"
    if other.facts is best:
        return f"; {best.quant} is better by {_percent(mine)} but {needs}"
    return (
        f"; {other.facts.quant} would lose {_percent(loss)} against {best.quant} "
        f"instead of {_percent(mine)} but {needs}"
    )


def _gb(size_bytes: int) -> str:
    """Decimal gigabytes as in a sentence: ``24 GB``, ``27.2 GB``."""
    return f"{size_bytes / GB:.1f}".removesuffix(".0") + " GB"


def _gb_up(size_bytes: int) -> str:
    """The same rounded up: who makes room for so much has enough."""
    return _gb(-(-size_bytes // (GB // 10)) * (GB // 10))


def _percent(share: float) -> str:
    """A share as people read it: ``3.6 %``."""
    return f"{share * 100:.1f}".removesuffix(".0") + " %"

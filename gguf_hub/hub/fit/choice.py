"""Judging all files of a model, choosing one, and saying why in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from gguf_hub.errors import UsageError
from gguf_hub.hub.fit.facts import FileFacts
from gguf_hub.hub.fit.machine import POLICIES, Constraints, Machine, Policy
from gguf_hub.hub.fit.memory import MemoryEstimate, need_of
from gguf_hub.hub.fit.placement import Placement, Verdict, memory_limit, placement_of
from gguf_hub.hub.fit.quality import Loss, losses_of
from gguf_hub.hub.fit.speed import Speed, speed_of
from gguf_hub.units import GB

EQUAL_WITHIN = 0.01  # balanced: losses this close to the best count as equal
FAST_WITHIN = 0.10  # fast: how much worse than the best a file may be
MAX_N_CTX = 2**20


@dataclass(frozen=True)
class Fit:
    """One file on one machine.

    Attributes:
        facts: The file.
        constraints: What it was judged by.
        need: The memory that it takes.
        placement: Where that goes.
        speed: How fast it generates; None where that is not known.
        largest_n_ctx: The longest context that stays in memory, 0 for none.
        loss: How much worse than the best file compared; None where that is not known.
        is_on_disk: It needs no download.
    """

    facts: FileFacts
    constraints: Constraints
    need: MemoryEstimate
    placement: Placement
    speed: Speed | None
    largest_n_ctx: int
    loss: Loss | None = None
    is_on_disk: bool = False

    @property
    def verdict(self) -> Verdict:
        """Where it runs from."""
        return self.placement.verdict

    @property
    def is_too_slow(self) -> bool:
        """It is known to make fewer tokens a second than were asked for."""
        least = self.constraints.min_tok_per_s
        return least is not None and self.speed is not None and self.tok_per_s < least

    @property
    def is_fitting(self) -> bool:
        """It can be recommended: in memory, or from disk if a given minimum speed is reached."""
        if self.is_too_slow:
            return False
        if self.verdict is Verdict.DISK:
            return self.constraints.min_tok_per_s is not None
        return self.verdict.is_in_memory

    @property
    def tok_per_s(self) -> float:
        """The middle of its speed; 0 where that is not known."""
        return self.speed.about_tok_per_s if self.speed else 0.0


@dataclass(frozen=True)
class Pick:
    """All files of a model on one machine, and the one to take (None when none fits)."""

    fits: tuple[Fit, ...]
    chosen: Fit | None
    reason: str
    machine: Machine
    constraints: Constraints


def pick(
    files: Sequence[FileFacts],
    machine: Machine,
    constraints: Constraints,
    on_disk: Sequence[bool] = (),
) -> Pick:
    """Judge every file and choose one.

    Args:
        files: The files, at least one.
        machine: What there is.
        constraints: What is asked.
        on_disk: For each file whether it needs no download; none does when empty.

    Raises:
        UsageError: There is no such policy.
    """
    losses = losses_of(files)
    fits = tuple(
        replace(fit_file(file, machine, constraints), loss=loss, is_on_disk=is_on_disk)
        for file, loss, is_on_disk in zip(
            files, losses, on_disk or [False] * len(files), strict=True
        )
    )
    chosen = choose(fits, constraints.policy)
    return Pick(fits, chosen, _reason(fits, chosen, constraints, machine), machine, constraints)


def fit_file(file: FileFacts, machine: Machine, constraints: Constraints) -> Fit:
    """Judge one file by itself."""
    placement = placement_of(file, constraints, machine)
    return Fit(
        facts=file,
        constraints=constraints,
        need=need_of(file, constraints, n_threads=machine.n_threads),
        placement=placement,
        speed=speed_of(file, constraints, machine, placement),
        largest_n_ctx=largest_n_ctx(file, machine, constraints),
    )


def largest_n_ctx(file: FileFacts, machine: Machine, constraints: Constraints) -> int:
    """Return the most tokens of context with which the file stays in memory; 0 for none."""

    def fits(n_ctx: int) -> bool:
        """Tell whether the file fits in memory with that context."""
        return placement_of(file, replace(constraints, n_ctx=n_ctx), machine).verdict.is_in_memory

    if not fits(1):
        return 0
    low, high = 1, MAX_N_CTX + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


# ---- choice ------------------------------------------------------------------------------------


def choose(fits: Sequence[Fit], policy: str = "balanced") -> Fit | None:
    """Return the one to take of the files that fit, or None when none does.

    - ``balanced``: all within 1 % of the best perplexity count as equal; one on disk is preferred
      among them, then the card's recommendation, then the smaller file.
    - ``quality``: the best perplexity, estimated ones included.
    - ``fast``: the fewest bytes read per token, within 10 % of the best perplexity.

    Where two are equal by that, one that is on disk is preferred.

    What stays in memory is preferred to what runs from disk, and files with a known loss to others.
    Where no loss is known, the larger file is taken for the better, and ``fast`` falls back to
    ``balanced``, as nothing bounds the loss.

    Raises:
        UsageError: There is no such policy.
    """
    if policy not in POLICIES:
        known = ", ".join(f"`{name}`" for name in POLICIES)
        raise UsageError(f"no such policy: `{policy}`", hint=f"expected one of {known}")
    fitting = [fit for fit in fits if fit.is_fitting]
    in_memory = [fit for fit in fitting if fit.verdict.is_in_memory]
    fitting = in_memory or fitting
    measured = [fit for fit in fitting if fit.loss is not None]
    if measured:
        return _choose_measured(measured, policy)
    is_by_card = policy != "quality"
    return max(
        fitting,
        key=lambda fit: (
            is_by_card and fit.facts.is_recommended,
            fit.facts.weights_bytes,
            fit.is_on_disk,
        ),
        default=None,
    )


def _choose_measured(fits: Sequence[Fit], policy: Policy) -> Fit:
    keys: dict[Policy, Callable[[Fit], tuple[float, ...]]] = {
        "balanced": lambda f: (
            not f.is_on_disk,
            not f.facts.is_recommended,
            f.facts.weights_bytes,
            _loss(f),
        ),
        "quality": lambda f: (_loss(f), not f.is_on_disk, f.facts.weights_bytes),
        "fast": lambda f: (
            f.facts.active_bytes,
            not f.is_on_disk,
            not f.facts.is_recommended,
            _loss(f),
        ),
    }
    within = {"balanced": EQUAL_WITHIN, "quality": 0.0, "fast": FAST_WITHIN}[policy]
    limit = (1 + min(map(_loss, fits))) * (1 + within)
    good = [fit for fit in fits if 1 + _loss(fit) <= limit]
    return min(good, key=keys[policy])


def best_of(fits: Sequence[Fit]) -> Fit | None:
    """Return the one with the least loss, whether it fits or not; None without figures."""
    return min((fit for fit in fits if fit.loss is not None), key=_loss, default=None)


def _loss(fit: Fit) -> float:
    assert fit.loss is not None
    return fit.loss.share


# ---- the reason, in one sentence ---------------------------------------------------------------


def _reason(
    fits: Sequence[Fit], chosen: Fit | None, constraints: Constraints, machine: Machine
) -> str:
    limit = _limit(constraints, machine)
    if chosen is None:
        return _none(fits, limit)
    merit = _merit(fits, chosen, constraints.policy, limit)
    # who asks for speed has already left better files that fit
    bigger = "" if constraints.policy == "fast" else _next(fits, chosen)
    return f"{chosen.facts.quant}: {merit}{bigger}"


def _limit(constraints: Constraints, machine: Machine) -> str:
    """Name the memory: ``22.5 GB of RAM (24 GB less 1.5 GB for other programs)``."""
    has_gpu = constraints.uses_gpu(machine)
    kind = "unified memory" if has_gpu and machine.is_unified else "RAM"
    ram = _room(kind, machine.ram_bytes, constraints.limit_of(machine), "other programs")
    if not has_gpu or machine.is_unified:
        return ram
    vram_limit = memory_limit(constraints, machine) - constraints.limit_of(machine)
    return f"{ram} and {_room('VRAM', machine.vram_bytes, vram_limit, 'driver and margin')}"


def _room(kind: str, there_bytes: int, limit_bytes: int, others: str) -> str:
    """Say what a model may take of what there is, both rounded down to equal hundredths."""
    there, limit = there_bytes // _CENT, limit_bytes // _CENT
    less = f" ({_cents(there)} less {_cents(there - limit)} for {others})"
    return f"{_cents(limit)} of {kind}{less if there != limit else ''}"


_CENT = GB // 100


def _cents(hundredths: int) -> str:
    return f"{hundredths / 100:.2f}".rstrip("0").rstrip(".") + " GB"


def _none(fits: Sequence[Fit], limit: str) -> str:
    """Say what stands in the way of the smallest file, of those that memory could help."""
    hopeful = [fit for fit in fits if not fit.verdict.is_hopeless]
    smallest = min(hopeful or fits, key=lambda fit: fit.need.total_bytes)
    if not hopeful:
        return _hopeless(fits)
    slow = [fit for fit in fits if fit.is_too_slow and fit.verdict.is_in_memory]
    if slow:
        fastest = max(slow, key=lambda fit: fit.tok_per_s)
        min_tok_per_s = tok_per_s(fastest.constraints.min_tok_per_s or 0)
        makes = f"makes about {tok_per_s(fastest.tok_per_s)} tok/s, {min_tok_per_s} are required"
        return _no_one(fits, fastest, "is fast enough", "reach the speed", makes)
    n_ctx = smallest.constraints.n_ctx
    needs = f"needs {_gb_up(smallest.need.total_bytes)} at {n_ctx} tokens of context"
    if smallest.verdict is Verdict.DISK:
        needs += f"; from disk it would run at about {tok_per_s(smallest.tok_per_s)} tok/s"
    which = ", the smallest," if len(fits) > 1 else ""
    return _no_one(fits, smallest, f"fits {limit}", f"fit {limit}", needs, which)


def _hopeless(fits: Sequence[Fit]) -> str:
    """Say why no memory would help, by the example of the smallest file."""
    runless = [fit for fit in fits if fit.verdict is Verdict.NOT_HERE]
    example = min(runless or fits, key=lambda fit: fit.need.total_bytes)
    if runless:
        quant = example.facts.quant
        none_runs = f"none of the {len(fits)} files runs in gguf-hub; {quant}"
        start = none_runs if len(fits) > 1 else f"{quant} does not run in gguf-hub"
        return f"{start}: {example.facts.unrunnable}"
    because = f"{example.facts.quant} has the unknown {example.facts.unknown}"
    which = "it cannot" if len(fits) == 1 else f"none of the {len(fits)} files can"
    return f"{which} be judged: {because}"


def _no_one(
    fits: Sequence[Fit], example: Fit, does: str, does_not: str, because: str, which: str = ""
) -> str:
    """Say that no file does something, by the example of one."""
    quant = example.facts.quant
    if len(fits) == 1:
        return f"{quant} does not {does_not}: it {because}"
    return f"none of the {len(fits)} files {does}: {quant}{which} {because}"


def _merit(fits: Sequence[Fit], chosen: Fit, policy: str, limit: str) -> str:
    """Say why it was chosen of those that fit."""
    file = chosen.facts
    if chosen.verdict is Verdict.DISK:
        return f"runs from disk at about {tok_per_s(chosen.tok_per_s)} tok/s, as none fits {limit}"
    best = best_of([fit for fit in fits if fit.is_fitting and fit.verdict.is_in_memory])
    if best is None:
        is_by_card = file.is_recommended and policy != "quality"
        return (
            f"{'the card recommends it and it' if is_by_card else 'the largest that'} fits {limit}"
        )
    if best is chosen:
        return f"the best that fits {limit}"
    if policy == "fast":
        return (
            f"{_gb(file.active_bytes)} read per token, the fewest within "
            f"{_percent(FAST_WITHIN)} of {best.facts.quant}, the best that fits {limit}"
        )
    word = "recommended by the card, and" if file.is_recommended else "the smallest that is"
    if chosen.is_on_disk and not file.is_recommended:
        word = "on disk already, and"
    return (
        f"{word} within {_percent(EQUAL_WITHIN)} of {best.facts.quant}, the best that fits {limit}"
    )


def _next(fits: Sequence[Fit], chosen: Fit) -> str:
    """Name the next better file that is too big or too slow, and what it would bring."""
    best = best_of(fits)
    better = [
        fit
        for fit in fits
        if not fit.is_fitting
        and not fit.verdict.is_hopeless
        and fit.loss
        and chosen.loss
        and fit.loss.share < chosen.loss.share
    ]
    if not better or best is None or chosen.loss is None:
        return ""
    other = min(better, key=_obstacle)
    but = f"needs {_gb_up(other.need.total_bytes)}"
    if chosen.placement.n_gpu_layers:
        but = f"lacks {_gb_up(other.placement.lacking_bytes)}"
    if other.verdict.is_in_memory:
        but = f"makes only about {tok_per_s(other.tok_per_s)} tok/s"
    assert other.loss is not None and best.loss is not None
    mine, its = (_against(best.loss, loss) for loss in (chosen.loss, other.loss))
    if other is best:
        return f"; {other.facts.quant} is better by {mine} but {but}"
    return (
        f"; {other.facts.quant} would lose {its} against {best.facts.quant} instead of {mine} but "
        f"{but}"
    )


def _against(best: Loss, loss: Loss) -> str:
    """Return how much more one loses than another, in words."""
    about = "about " if best.is_estimated or loss.is_estimated else ""
    return about + _percent((1 + loss.share) / (1 + best.share) - 1)


def _obstacle(fit: Fit) -> tuple[int, bool]:
    """What stands between a file and being taken: equal needs, as people see them, are equal."""
    return -(-fit.need.total_bytes // (GB // 10)), not fit.facts.is_recommended


def tok_per_s(value: float) -> str:
    """A speed as people read it: two digits that count."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.995 else f"{value:.2f}"


def _gb(size_bytes: int) -> str:
    """Decimal gigabytes as in a sentence: ``24 GB``, ``27.2 GB``."""
    if size_bytes < GB // 10:
        return f"{size_bytes / 1e6:.0f} MB"
    return f"{size_bytes / GB:.1f}".removesuffix(".0") + " GB"


def _gb_up(size_bytes: int) -> str:
    """The same rounded up: who makes room for so much has enough."""
    return _gb(-(-size_bytes // (GB // 10)) * (GB // 10))


def _percent(share: float) -> str:
    """A share as people read it: ``3.6 %``."""
    return f"{share * 100:.1f}".removesuffix(".0") + " %"

"""``quantize --fit`` and ``--target-size``: from a machine or a size to the types of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from gguf_hub.cli.options import SIZE, together

if TYPE_CHECKING:
    from gguf_hub.hub.fit import Constraints, Fit, Machine
    from gguf_hub.run.allocation import Allocation, Allocator, Text
    from gguf_hub.run.quants.imatrix import ImportanceMatrix
    from gguf_hub.run.quants.plan import QuantizePlan
    from gguf_hub.run.quants.recipes import Wishes

N_CTX = 512
"""Tokens of a chunk, as those of `perplexity`."""
STEP_BYTES = 1 << 16
"""How near the size comes to the largest that a machine holds."""
COMMANDLINE = click.core.ParameterSource.COMMANDLINE
_NEEDS = (
    ("vram", "--vram", "fit", "--fit"),
    ("n_ctx", "--ctx", "fit", "--fit"),
    ("kv_type", "--kv-type", "fit", "--fit"),
    ("reserve", "--reserve", "fit", "--fit"),
    ("engine", "--for", "fit", "--fit"),
    ("chunks", "--chunks", "text_path", "--text"),
)
"""Options that mean nothing without another one."""
_F = TypeVar("_F", bound=Callable[..., Any])


class Ram(click.ParamType):  # type: ignore[type-arg]  # generic only in newer click
    """RAM of a machine, or ``auto`` for what this one has available."""

    name = "size|auto"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | str:
        """Return bytes, or ``auto``.

        Raises:
            UsageError: The text is neither; the message names the option.
        """
        return "auto" if value == "auto" else SIZE.convert(value, param, ctx)


fit_options = together(
    click.option(
        "--fit",
        type=Ram(),
        metavar="RAM|auto",
        help="Choose each tensor's type so that the file fits a machine with so much RAM and loses "
        "least; no TYPE then. auto: this machine.",
    ),
    click.option("--target-size", type=SIZE, help="The same for a file of this size."),
    click.option("--vram", type=SIZE, help="VRAM of the machine of --fit."),
    click.option("--ctx", "n_ctx", type=click.IntRange(1, 2**20), default=4096, show_default=True,
                 help="Context that must fit, too (--fit)."),
    click.option("--kv-type", type=click.Choice(["f16", "q8_0", "f32"]), default="f16",
                 show_default=True, help="K/V cache data type (--fit)."),
    click.option("--reserve", type=SIZE, help="RAM left for other programs (--fit); default: a "
                 "tenth, at most 1.5 GB."),
    click.option("--for", "engine", type=click.Choice(["gguf-hub", "llama.cpp"]),
                 help="Program that will run the file (--fit); default: as `pick`."),
    click.option("--text", "text_path", type=click.Path(path_type=Path), metavar="FILE",
                 help="Text to measure with how much each tensor matters (--fit, --target-size)."),
    click.option("--chunks", type=click.IntRange(2), default=16, show_default=True, metavar="N",
                 help=f"Chunks of {N_CTX} tokens of it to read."),
)  # fmt: skip
"""Options of a file that is made to measure."""


def check_options(options: dict[str, Any]) -> bool:
    """Return whether a file is to be made to measure; refuse options that do not go together.

    Raises:
        UsageError: Two of them exclude each other, or one needs another.
    """
    is_fitted = options["fit"] is not None or options["target_size"] is not None
    source_of = click.get_current_context().get_parameter_source
    given = {name for name in options if source_of(name) is COMMANDLINE}
    if {"fit", "target_size"} <= given:
        raise click.UsageError("--fit and --target-size exclude each other")
    if is_fitted and given & {"recipe", "pure"}:
        raise click.UsageError("--recipe and --pure are about mixes: they cannot go with --fit")
    if is_fitted and "text_path" not in given:
        raise click.UsageError(
            "--fit and --target-size need --text FILE: types that are chosen without the model "
            "reading one often lose more than a mix"
        )
    if "text_path" in given and not is_fitted:
        raise click.UsageError("--text needs --fit or --target-size")
    for name, flag, other, needed in _NEEDS:
        if name in given and other not in given:
            raise click.UsageError(f"{flag} needs {needed}")
    return is_fitted


def default_target(source: Path, options: dict[str, Any]) -> Path:
    """Return what a file is called that nobody named: in the working folder, by its size."""
    from gguf_hub.gguf.shard_names import model_name
    from gguf_hub.hub.download.quants import quant_of
    from gguf_hub.units import format_size

    stem = model_name(source)
    quant = quant_of(stem)
    if quant and stem.endswith(quant):
        stem = stem.removesuffix(quant).rstrip(".-_") or stem
    size = options["fit"] if options["target_size"] is None else options["target_size"]
    label = size if size == "auto" else format_size(size).replace(" ", "")
    kind = "fit" if options["target_size"] is None else "size"
    return Path(f"{stem}.{kind}-{label}.gguf")


@dataclass(frozen=True)
class Fitted:
    """A file that is made to measure.

    Attributes:
        plan: What to write.
        kl: Expected KL divergence from the source, in nats.
        kl_of: Name of a tensor whose type could be chosen -> its part of that.
        notes: What the user should know of how it was chosen.
    """

    plan: QuantizePlan
    kl: float
    kl_of: Mapping[str, float]
    notes: tuple[str, ...]


def fit_file(
    source: Path, options: dict[str, Any], wishes: Wishes, imatrix: ImportanceMatrix | None,
    check: Callable[[QuantizePlan], object] | None,
) -> Fitted:  # fmt: skip
    """Measure a file and choose its types.

    Args:
        source: The file, or any shard of a set.
        options: Those of the command, by name.
        wishes: Types that the user wants.
        imatrix: What errors count for.
        check: Gets a plan of the same files as the final one, to refuse them before all the work;
            None if nothing will be written.

    Raises:
        GgufHubError: No file is that small, or something cannot be read.
    """
    from gguf_hub.cli.console import ConsoleProgress
    from gguf_hub.cli.run.opening import report_lost_pages
    from gguf_hub.run.allocation import open_allocator

    # 1) what cannot be is refused at once: measuring takes minutes to hours
    room = _Room.of(options) if options["fit"] is not None else None
    if room is not None:
        room.require_need(source)
    text = _read_text(source, options)
    allocator = open_allocator(source, layout=options["layout"], keeps_split=options["keep_split"],
                               wishes=wishes, imatrix=imatrix)  # fmt: skip
    size_bytes = allocator.smallest_bytes if room else options["target_size"]
    plan = allocator.plan(allocator.allocate(size_bytes))
    if check is not None:
        check(plan)
    if room is not None:
        room.require_smallest(allocator)
    # 2) the measurement
    with report_lost_pages(f"`{source}`"):
        progress = ConsoleProgress(enabled=not options["no_progress"])
        allocator = allocator.measured(text, n_threads=options["threads"], progress=progress)
    # 3) the types
    allocation = allocator.allocate(size_bytes) if room is None else room.largest(allocator)
    needs = [] if room is None else [room.note(allocator, allocation)]
    notes = (*needs, *_notes(allocation, options, has_imatrix=imatrix is not None))
    kl_of = {
        part.spec.name: allocation.losses[unit.name] / len(unit.parts)
        for unit in allocator.units
        if len(unit.types) > 1
        for part in unit.parts
    }
    return Fitted(allocator.plan(allocation), allocation.loss, kl_of, notes)


def _notes(allocation: Allocation, options: dict[str, Any], *, has_imatrix: bool) -> Iterable[str]:
    if not has_imatrix:
        yield (
            "without an importance matrix (`--imatrix`) errors of all inputs count alike, and "
            "IQ1, IQ2 and IQ3_XXS are not chosen"
        )
    yield (
        f"expected KL divergence on `{options['text_path']}`: {allocation.loss:.5f}, the sum of "
        "what each tensor costs alone whose type was chosen"
    )


def _read_text(source: Path, options: dict[str, Any]) -> Text:
    """Return the text to measure with, in the model's tokens.

    Raises:
        GgufHubError: It cannot be read, or is too short.
    """
    from gguf_hub.cli.run.prompt import read_text
    from gguf_hub.gguf.shards import open_gguf
    from gguf_hub.run.allocation import Text
    from gguf_hub.run.perplexity import cut
    from gguf_hub.run.tokenizer import encode_unended, load_tokenizer

    text = read_text(options["text_path"], "text")
    with open_gguf(source) as file:
        tokenizer = load_tokenizer(file.metadata)
        n_ctx = min(N_CTX, file.hparams.n_ctx_train)
    tokens = encode_unended(tokenizer, text)
    chunks = cut(tokens, n_ctx, options["chunks"])
    return Text(chunks, tokenizer.begin_id)


@dataclass(frozen=True)
class _Room:
    """A machine that a file is to fit.

    Attributes:
        machine: It.
        constraints: The context, and who runs the file.
    """

    machine: Machine
    constraints: Constraints

    @classmethod
    def of(cls, options: dict[str, Any]) -> _Room:
        from gguf_hub.cli.pick.machines import MachineOverrides, detect_machine
        from gguf_hub.cli.pick.pick import constraints_of

        ram_bytes = None if options["fit"] == "auto" else options["fit"]
        overrides = MachineOverrides(
            ram_bytes=ram_bytes, vram_bytes=options["vram"], reserve_bytes=options["reserve"]
        )
        detected = detect_machine(overrides)
        fixed = {"flash_attn": "auto", "policy": "quality", "min_tok_per_s": None}
        return cls(detected.machine, constraints_of(options | fixed, detected))

    def require_need(self, source: Path) -> None:
        """Refuse to measure a file that need not be smaller.

        Raises:
            GgufHubError: It fits as it is.
        """
        from gguf_hub.errors import GgufHubError
        from gguf_hub.hub import fit
        from gguf_hub.hub.survey.headers import facts_of_file
        from gguf_hub.units import format_size

        judged = fit.fit_file(facts_of_file(source), self.machine, self.constraints)
        if judged.verdict.is_in_memory:
            raise GgufHubError(
                f"`{source}` fits as it is: it needs {format_size(judged.need.total_bytes)} of the "
                f"{self._limit()} that a model may take",
                hint="`--target-size SIZE` makes a smaller file all the same",
            )

    def require_smallest(self, allocator: Allocator) -> None:
        """Refuse a machine that is too small.

        Raises:
            GgufHubError: Not even the smallest file stays in its memory.
        """
        from gguf_hub.errors import GgufHubError
        from gguf_hub.units import format_size

        smallest = self._fit(allocator, allocator.allocate(allocator.smallest_bytes))
        if smallest.verdict.is_in_memory:
            return
        hint = "give it more room, or a shorter context (`--ctx`)"
        if allocator.imatrix is None:
            hint += "; an importance matrix (`--imatrix`) allows smaller types"
        raise GgufHubError(
            f"`{allocator.source}` cannot be made to fit: the smallest file of it has "
            f"{format_size(allocator.smallest_bytes)} and needs "
            f"{format_size(smallest.need.total_bytes)}: a model may take {self._limit()}",
            hint=hint,
        )

    def largest(self, allocator: Allocator) -> Allocation:
        """Return the types of the largest file that stays in memory; the smallest does."""
        low, high = allocator.smallest_bytes, allocator.largest_bytes
        best = allocator.allocate(low)
        while high - low > STEP_BYTES:
            middle = (low + high + 1) // 2
            found = allocator.allocate(middle)
            if self._fit(allocator, found).verdict.is_in_memory:
                low, best = middle, found
            else:
                high = middle
        return best

    def note(self, allocator: Allocator, allocation: Allocation) -> str:
        """Return what a file needs of the machine."""
        from gguf_hub.units import format_size

        need = self._fit(allocator, allocation).need
        return (
            f"needs {format_size(need.total_bytes)} of the {self._limit()} that a model may take, "
            f"{format_size(need.own_bytes)} of it beside the weights (context "
            f"{self.constraints.n_ctx}, run by {self.constraints.engine})"
        )

    def _limit(self) -> str:
        from gguf_hub.hub.fit.placement import memory_limit
        from gguf_hub.units import format_size

        return format_size(memory_limit(self.constraints, self.machine))

    def _fit(self, allocator: Allocator, allocation: Allocation) -> Fit:
        """Judge a file that is not there yet, as `pick` will."""
        from gguf_hub.gguf.header import read_header
        from gguf_hub.gguf.writer import plan_file
        from gguf_hub.hub import fit
        from gguf_hub.hub.survey.headers import ShardHeader, facts_of_headers

        plan = allocator.plan(allocation)
        file = plan_file(plan.fields, [part.spec for part in plan.parts])
        header = read_header(_Planned(file.header, file.size_bytes))
        facts = facts_of_headers([ShardHeader(str(plan.source), header)])
        return fit.fit_file(facts, self.machine, self.constraints)


@dataclass(frozen=True)
class _Planned:
    """A file that is not written yet, as a source of its header."""

    header: bytes
    size_bytes: int

    def read(self, offset: int, n: int) -> bytes:
        """Return what would stand there, zeros for the data."""
        return self.header[offset : offset + n].ljust(n, b"\0")

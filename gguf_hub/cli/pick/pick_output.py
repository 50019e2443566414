"""Text output of ``gguf-hub pick``; ``pick_report`` has the JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gguf_hub.cli import console
from gguf_hub.cli.pick.pick_report import report

if TYPE_CHECKING:
    from gguf_hub.cli.pick.candidates import CandidateSet
    from gguf_hub.cli.pick.machines import DetectedMachine
    from gguf_hub.cli.pick.made_to_measure import MadeToMeasure
    from gguf_hub.hub.fit import Fit, Machine, Pick

__all__ = ["print_explained", "print_machine", "print_notes", "print_pick", "report"]

WIDE = 120
BAR_CELLS = 8
Column = tuple[str, str, list[str]]


def print_machine(detected: DetectedMachine, pick: Pick, *, is_this: bool) -> None:
    """Print the machine on stderr."""
    from gguf_hub.units import format_gb

    machine, reserve = pick.machine, pick.constraints.reserve_of(pick.machine)
    parts = [
        f"{format_gb(machine.ram_bytes)} of RAM{_available(detected, pick) if is_this else ''}"
    ]
    if pick.constraints.uses_gpu(machine):
        shared = " (part of the RAM)" if machine.is_unified else ""
        parts.append(f"{format_gb(machine.vram_bytes)} of VRAM{shared}")
    parts.append(f"{format_gb(reserve)} left for other programs")
    rate = machine.ram_bytes_per_s
    speed = f"reads {rate / 1e9:.1f} GB/s" if rate else "read speed not measured"
    parts.append(f"{speed} on {machine.n_threads} thread{'s' * (machine.n_threads != 1)}")
    if machine.gpu_weights_bytes_per_s and pick.constraints.engine == "gguf-hub":
        parts.append(f"{machine.gpu_weights_bytes_per_s / 1e9:.1f} GB/s on the GPU")
    console.note(", ".join(parts))
    if is_this and detected.hardware.swap_total_bytes:
        console.note(f"swap of {format_gb(detected.hardware.swap_total_bytes)} is not counted")
    console.note("")


def _available(detected: DetectedMachine, pick: Pick) -> str:
    """Return whether the RAM is what is available now, or at the last pick."""
    from gguf_hub.units import format_gb

    now = detected.hardware.ram_available_bytes
    if now is None or format_gb(now) == format_gb(pick.machine.ram_bytes):
        return " available"
    return f" as at the last pick ({format_gb(now)} available now)"


def print_pick(pick: Pick, commands: list[str], made: MadeToMeasure | None = None) -> None:
    """Print the table, the reason and the next commands."""
    is_wide = (console.terminal_columns() or 100) >= WIDE
    columns = _columns(pick, is_wide=is_wide)
    rows: list[Sequence[str]] = [*zip(*(cells for _, _, cells in columns), strict=True)]
    if made:
        rows.append(_made_cells(made, pick, [title for title, _, _ in columns], is_wide=is_wide))
    console.print_table(
        rows,
        [title for title, _, _ in columns],
        align=[align for _, align, _ in columns],
        expendable=["of the limit", "tok/s", "GB", "loss"],
    )
    console.say(f"\n{pick.reason}")
    if commands:
        console.say("\n" + "\n".join(f"  {console.style(line, 'cyan')}" for line in commands))


def _made_cells(made: MadeToMeasure, pick: Pick, titles: list[str], *, is_wide: bool) -> list[str]:
    """Return the row of a file that is not there yet; its loss and speed are not known."""
    gb, fit = _gb_wide if is_wide else _gb_narrow, made.fit
    cells = {
        "quant": fit.facts.quant,
        "size" if is_wide else "GB": gb(fit.facts.size_bytes),
        "needs": gb(fit.need.total_bytes),
        "of the limit": _bar(fit, pick),
        "verdict": _verdict(fit),
        "max ctx": _context(fit),
        "": f"from {made.source.file.quant}",
    }
    return [cells.get(title, "-") for title in titles]


def _columns(pick: Pick, *, is_wide: bool) -> list[Column]:
    fits = pick.fits
    gb = _gb_wide if is_wide else _gb_narrow
    columns: list[Column] = [
        ("quant", "left", [console.style(f.facts.quant, bold=f is pick.chosen) for f in fits]),
        ("size" if is_wide else "GB", "right", [gb(fit.facts.size_bytes) for fit in fits]),
        ("needs", "right", [gb(fit.need.total_bytes) for fit in fits]),
        ("of the limit", "left", [_bar(fit, pick) for fit in fits]),
        ("verdict", "left", [_verdict(fit) for fit in fits]),
        ("tok/s", "right", [_speed(fit, is_wide=is_wide) for fit in fits]),
    ]
    if is_wide and any(fit.facts.perplexity is not None for fit in fits):
        columns.append(("perplexity", "right", [_perplexity(fit) for fit in fits]))
    columns.append(("loss", "right", [_loss(fit) for fit in fits]))
    if is_wide:
        columns.append(("max ctx", "right", [_context(fit) for fit in fits]))
    columns.append(("", "left", [_marks(fit, pick, is_wide=is_wide) for fit in fits]))
    return columns


def _gb_wide(size_bytes: int) -> str:
    from gguf_hub.units import format_gb, format_size

    return format_gb(size_bytes) if size_bytes >= 10**8 else format_size(size_bytes)


def _gb_narrow(size_bytes: int) -> str:
    return f"{size_bytes / 1e9:.2f}" if size_bytes >= 10**8 else f"{size_bytes / 1e9:.3f}"


def _bar(fit: Fit, pick: Pick) -> str:
    """Return a bar of needed against available memory, e.g. ``█████▌░░  68 %``."""
    from gguf_hub.hub.fit.placement import memory_limit

    limit = memory_limit(pick.constraints, pick.machine)
    share = fit.need.total_bytes / limit if limit else 99.0
    halves = min(2 * BAR_CELLS, round(share * 2 * BAR_CELLS))
    bar = ("█" * (halves // 2) + "▌" * (halves % 2)).ljust(BAR_CELLS, "░")
    colour = "green" if share <= 0.9 else "yellow" if share <= 1 else "red"
    percent = f"{min(share, 9.99) * 100:>4.0f} %"
    return f"{console.style(bar, colour)}{percent}"


def _verdict(fit: Fit) -> str:
    from gguf_hub.hub.fit import Verdict

    if fit.verdict is Verdict.UNKNOWN:
        return console.style(f"unknown: {fit.facts.unknown}", "red")
    colour = "green" if fit.verdict.is_in_memory else "red"
    return console.style(fit.verdict.value, "yellow" if fit.verdict is Verdict.DISK else colour)


def _speed(fit: Fit, *, is_wide: bool) -> str:
    from gguf_hub.hub.fit.choice import tok_per_s

    speed = fit.speed
    if speed is None:
        return "-"
    middle = f"~{tok_per_s(speed.about_tok_per_s)}"
    if not is_wide:
        return middle
    return f"{middle} ({tok_per_s(speed.low_tok_per_s)}-{tok_per_s(speed.high_tok_per_s)})"


def _perplexity(fit: Fit) -> str:
    if fit.facts.perplexity is None:
        return "-"
    return f"{'~' if fit.facts.is_perplexity_estimated else ''}{fit.facts.perplexity:.4f}"


def _loss(fit: Fit) -> str:
    if fit.loss is None:
        return "-"
    return f"{'~' if fit.loss.is_estimated else ''}{fit.loss.share * 100:.1f} %"


def _context(fit: Fit) -> str:
    """Return the longest context that fits, at most the trained one."""
    n_ctx = min(fit.largest_n_ctx, fit.facts.shape.n_ctx_train)
    return str(n_ctx) if n_ctx else "-"


def _marks(fit: Fit, pick: Pick, *, is_wide: bool) -> str:
    marks = ["<- pick"] * (fit is pick.chosen)
    marks += ["too slow"] * (fit.is_too_slow and fit.verdict.is_in_memory)
    marks += ["by card"] * (fit.facts.is_recommended and is_wide)
    marks += ["on disk"] * (fit.is_on_disk and is_wide)
    return ", ".join(marks)


# ---- notes -------------------------------------------------------------------------------------


def print_notes(candidates: CandidateSet, pick: Pick, detected: DetectedMachine) -> None:
    """Print notes, warnings and hints on stderr."""
    for note in (*detected.hardware.notes, *candidates.notes, *_not_runnable(pick)):
        console.note(f"\nnote: {note}")
    for line in _warnings(pick):
        console.warn(line)
    if any(fit.loss and fit.loss.is_estimated for fit in pick.fits):
        console.note(f"\n{_estimated(pick)}")
    if pick.chosen is None:
        _hint(pick)


def _not_runnable(pick: Pick) -> list[str]:
    """Return a note for each file that does not run here."""
    from gguf_hub.hub.fit import Verdict

    files = [fit.facts for fit in pick.fits if fit.verdict is Verdict.NOT_HERE]
    if not files:
        return []  # keeps the reader of GGUF files from being imported
    from gguf_hub.gguf.runnable import NOT_RUNNABLE

    return [f"{file.quant}: {NOT_RUNNABLE}: {file.unrunnable}" for file in files]


def _estimated(pick: Pick) -> str:
    """Return the explanation of losses with a ~."""
    estimated = [fit.facts for fit in pick.fits if fit.facts.is_perplexity_estimated]
    if estimated:
        return "\n".join(f"~ {file.quant}: estimated; {file.perplexity_note}" for file in estimated)
    return "~ estimated from the types of the tensors, good to a factor of two (docs/fit.md)"


def _warnings(pick: Pick) -> list[str]:
    from gguf_hub.hub.fit import gpu_rate

    shape, constraints, machine = pick.fits[0].facts.shape, pick.constraints, pick.machine
    lines = []
    if constraints.n_ctx > shape.n_ctx_train:
        lines.append(
            f"the model was trained on {shape.n_ctx_train} tokens of context: beyond them, at "
            f"{constraints.n_ctx}, expect nonsense"
        )
    if constraints.engine == "gguf-hub" and machine.vram_bytes and not machine.can_offload:
        lines.append(f"the GPU is not counted: {_why_no_gpu()}")
    if constraints.engine == "gguf-hub" and constraints.flash_attn != "auto":
        lines.append("`--flash-attn` is llama.cpp's: `gguf-hub run` always computes in blocks")
    if constraints.uses_gpu(machine) and gpu_rate(constraints, machine) is None:
        lines.append("the GPU's bandwidth, and so the speed, is unknown: --gpu-bandwidth")
    chosen, free = pick.chosen, machine.disk_free_bytes
    if chosen and free is not None and chosen.facts.size_bytes > free:
        lines.append(
            f"{chosen.facts.quant} is larger than the free disk space of {free / 1e9:.2f} GB"
        )
    return lines


def _why_no_gpu() -> str:
    """Return why our own runner cannot use the GPU of this machine."""
    from gguf_hub.run.gpu.adapters import find_gpus

    report = find_gpus()
    return f"{report.problem}; {report.hint}"


def _hint(pick: Pick) -> None:
    """Print what to ask instead: for another program, or with a shorter context."""
    if other := _for_llama_cpp(pick):
        console.note(f"\nhint: for llama.cpp, {other} would be the pick: `--for llama.cpp`")
        return
    possible = [fit for fit in pick.fits if not fit.verdict.is_hopeless]
    smallest = min(possible or pick.fits, key=lambda fit: fit.facts.weights_bytes)
    n_ctx = min(smallest.largest_n_ctx, smallest.facts.shape.n_ctx_train)
    if n_ctx and not smallest.is_too_slow:
        console.note(f"\nhint: {smallest.facts.quant} would fit with `--ctx {n_ctx}`")
    elif any(fit.verdict.value == "from disk" for fit in pick.fits):
        console.note("\nhint: `--min-tok-per-s 0` accepts files that run from disk")


def _for_llama_cpp(pick: Pick) -> str:
    """Return what llama.cpp would be given where none of the files runs in gguf-hub."""
    from gguf_hub.hub import fit

    if any(each.verdict is not fit.Verdict.NOT_HERE for each in pick.fits):
        return ""
    constraints = replace(pick.constraints, engine="llama.cpp")
    chosen = fit.pick([each.facts for each in pick.fits], pick.machine, constraints).chosen
    return chosen.facts.quant if chosen else ""


# ---- explanation -------------------------------------------------------------------------------


def print_explained(pick: Pick) -> None:
    """Explain memory and speed of the chosen file, or else of the smallest."""
    fit = pick.chosen or min(pick.fits, key=lambda each: each.need.total_bytes)
    console.say(f"\n{console.style(fit.facts.quant, bold=True)}, run by {fit.constraints.engine}")
    for label, amount, note in [
        *_memory_lines(fit),
        *_placement_lines(fit, pick),
        *_speed_lines(fit, pick),
    ]:
        console.say(f"  {label:<22}{amount:>12}  {note}".rstrip())


def _memory_lines(fit: Fit) -> list[tuple[str, str, str]]:
    from gguf_hub.hub.fit.llama_cpp import uses_flash_attention

    file, need, shape = fit.facts, fit.need, fit.facts.shape
    experts = f"{shape.n_layer} layers of {file.expert_bytes / shape.n_layer / 1e6:.0f} MB"
    if shape.n_expert:
        experts += f", {shape.n_expert_used} of {shape.n_expert} experts for a token"
    kv = f"2 x {shape.n_layer} x {shape.n_head_kv} x {shape.head_dim} x "
    kv += f"{fit.constraints.n_ctx} tokens"
    if shape.layers:
        n_own = sum(bool(layer.n_embd_k and not layer.n_back_kv) for layer in shape.layers)
        kv = f"{n_own} layers of {fit.constraints.n_ctx} tokens"
    scratch = "buffers of a batch of 512 tokens"
    if fit.constraints.engine == "llama.cpp":
        kv = _layers(fit)
        has_flash = uses_flash_attention(file, fit.constraints)
        scratch += f", {'with' if has_flash else 'without'} flash attention"
    return [
        ("dense part", _gb_wide(file.dense_bytes), "attention, norms, router, output"),
        ("experts" if shape.n_expert else "feed-forward", _gb_wide(file.expert_bytes), experts),
        ("embeddings", _gb_wide(file.embedding_bytes), f"{shape.n_vocab} tokens"),
        ("K/V cache", _gb_wide(need.kv_bytes), f"{fit.constraints.kv_type}: {kv}"),
        ("scratch", _gb_wide(need.scratch_bytes), scratch),
        ("program", _gb_wide(need.overhead_bytes), "interpreter, libraries, vocabulary"),
        ("needs", _gb_wide(need.total_bytes), "the sum"),
    ]


def _layers(fit: Fit) -> str:
    """Return which layers cache how much, e.g. "2 layers of 32768 tokens, 10 of 1536"."""
    from gguf_hub.hub.fit.llama_cpp import n_cells

    layers = fit.facts.layers
    cells = Counter(n_cells(layer, fit.constraints.n_ctx) for layer in layers if layer.n_embd_k)
    n_states = sum(layer.n_state > 0 for layer in layers)
    parts = [f"{n} layers of {size} tokens" for size, n in sorted(cells.items(), reverse=True)]
    parts += [f"{n_states} recurrent states"] * (n_states > 0)
    return ", ".join(parts) or "none"


def _placement_lines(fit: Fit, pick: Pick) -> list[tuple[str, str, str]]:
    placement, constraints, machine = fit.placement, pick.constraints, pick.machine
    reserve = (
        f"{_gb_wide(machine.ram_bytes)} less {_gb_wide(constraints.reserve_of(machine))} "
        "for other programs"
    )
    lines = [("RAM to use", _gb_wide(constraints.limit_of(machine)), reserve)]
    if placement.vram_bytes:
        flags = f"-ngl {placement.n_gpu_layers}"
        flags += f" --n-cpu-moe {placement.n_cpu_moe}" if placement.n_cpu_moe else ""
        lines.append(("in VRAM", _gb_wide(placement.vram_bytes), flags))
        lines.append(("in RAM", _gb_wide(placement.ram_bytes), ""))
    if placement.miss_share:
        share = f"{placement.miss_share * 100:.0f} % of the experts that a token reads"
        lines.append(
            ("lacking", _gb_wide(placement.lacking_bytes), f"so {share} are read from disk")
        )
    trained = f"trained on {fit.facts.shape.n_ctx_train}"
    lines.append(("largest context", str(fit.largest_n_ctx), f"tokens fit in memory; {trained}"))
    return lines


def _speed_lines(fit: Fit, pick: Pick) -> list[tuple[str, str, str]]:
    from gguf_hub.hub.fit.choice import tok_per_s

    machine, speed = pick.machine, fit.speed
    lines = [("a token reads", _gb_wide(fit.facts.active_bytes), "of weights, plus K/V")]
    rate = machine.ram_bytes_per_s
    threads = f"on {machine.n_threads} threads, {machine.isa} kernels"
    if rate:
        lines.append(("memory gives", f"{rate / 1e9:.1f} GB/s", f"measured {threads}"))
    else:
        lines.append(("memory gives", "20 GB/s", f"assumed {threads}"))
    if fit.placement.vram_bytes:
        lines += _gpu_speed_lines(fit, machine)
    if fit.placement.miss_share:
        disk = machine.disk_bytes_per_s
        lines.append(
            ("the disk gives", f"{(disk or 1e9) / 1e9:.2f} GB/s", "measured" if disk else "assumed")
        )
    if speed:
        low, high = tok_per_s(speed.low_tok_per_s), tok_per_s(speed.high_tok_per_s)
        text = f"tok/s at half a context, {low} to {high}, by {speed.basis} bandwidth"
        lines.append(("speed", _speed(fit, is_wide=False), text))
    return lines


def _gpu_speed_lines(fit: Fit, machine: Machine) -> list[tuple[str, str, str]]:
    """Return what the GPU's memory gives, and what of it our kernels take."""
    from gguf_hub.hub.fit import gpu_rate

    lines = []
    if nominal := machine.gpu_bytes_per_s:
        lines.append(("the GPU's gives", f"{nominal / 1e9:.0f} GB/s", "at most"))
    rate = gpu_rate(fit.constraints, machine)
    if fit.constraints.engine == "gguf-hub" and rate:
        basis = "measured" if machine.gpu_weights_bytes_per_s else "assumed"
        lines.append(("kernels read there", f"{rate / 1e9:.1f} GB/s", basis))
    return lines

"""The proof that steps stay inside of their memory: it is true, and no wrong program passes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache as once
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from gguf_hub.errors import ProgramError
from gguf_hub.gguf.memory.cache import CACHE_TYPES
from gguf_hub.gguf.memory.layout import HEADER, Limits
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import QuantType
from gguf_hub.run.kernels.build.library import kernel_function
from gguf_hub.run.kernels.vm.extents import _EXTENTS, Bounds, Call, Span, extents_of, prove
from gguf_hub.run.kernels.vm.machine import Memory
from gguf_hub.run.kernels.vm.ops import (
    ARGUMENTS,
    N_OUTPUT_PAIRS,
    N_OUTPUTS,
    N_PAIRS,
    N_TOKENS,
    Step,
    step,
)
from gguf_hub.run.kernels.vm.sequences import SequenceTokens, write_sequences
from gguf_hub.run.model.builder import ProgramBuilder
from gguf_hub.run.model.program import Program
from gguf_hub.run.model.weights import read_model
from tests.arch_models import write_arch_model
from tests.encoder_recipes import ENCODERS
from tests.run.kernels.running import Watched
from tests.synth import RECIPES, SMALL, TINY, Shape, write_mixtral

T = QuantType
ALL_TYPES = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0",
             "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]  # fmt: skip

# -- programs of models ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Model:
    """A program and what it runs in: the file's bytes."""

    program: Program
    config: Any
    data: np.ndarray

    def prove(self, steps: Sequence[Step], bounds: Bounds) -> None:
        prove(steps, self.program.layout.blocks(), [self.data], bounds)


@once
def written(shape: Shape, recipe: str, layout: str) -> tuple[Any, Any, np.ndarray]:
    with TemporaryDirectory() as folder:
        path = write_mixtral(Path(folder) / "m.gguf", shape, recipe=recipe, layout=layout)
        with GgufFile.open(path, is_mapped=False) as file:
            return *read_model(file), file.data


@once
def architecture(name: str, limits: Limits) -> Model:
    """A model of ``RECIPES`` or ``ENCODERS``."""
    with TemporaryDirectory() as folder:
        path = write_arch_model(Path(folder) / "m.gguf", name)
        with GgufFile.open(path, is_mapped=False) as file:
            config, weights = read_model(file)
            return Model(ProgramBuilder(config, weights, limits).build(), config, file.data)


def model_of(shape: Shape, recipe: str, layout: str, limits: Limits) -> Model:
    config, weights, data = written(shape, recipe, layout)
    program = ProgramBuilder(config, weights, limits).build()
    return Model(program, config, data)


DENSE = Shape(
    n_layer=1, n_embd=96, n_head=3, n_head_kv=1, n_ff=160, n_expert=0, n_expert_used=0,
    n_vocab=259, n_ctx=50,
)  # fmt: skip
ODD = Shape(
    n_layer=2, n_embd=30, n_head=5, n_head_kv=5, n_ff=33, n_expert=5, n_expert_used=3,
    n_vocab=260, n_ctx=31,
)  # fmt: skip
LIMITS = {
    "one": Limits(1, 1, 1, 1),
    "usual": Limits(64, 16, 1, 2),
    "paged": Limits(50, 50, 50, 3, prefetch_experts=True),
    "slots": Limits(40, 17, 17, 2, n_slots=5, key_type="Q8_0"),
    "many threads": Limits(300, 8, 2, 64, n_slots=2, value_type="Q8_0"),
    "all steps": Limits(33, 33, 33, 1, n_slots=3, key_type="F32", value_type="Q8_0"),
}


@pytest.mark.parametrize("limits", LIMITS.values(), ids=list(LIMITS))
@pytest.mark.parametrize(
    ("shape", "recipes"),
    [(TINY, ["F32", "F16"]), (DENSE, ["BF16", "Q8_0"]), (ODD, ["F32", "F16"]),
     (SMALL, ["Q2_K", "Q4_K_M", "Q5_0"])],
    ids=["tiny", "dense", "odd", "small"],
)  # fmt: skip
def test_programs_of_models_stay_inside_of_their_memory(
    shape: Shape, recipes: list[str], limits: Limits
) -> None:
    for recipe in recipes:
        for layout in ("split", "merged"):
            model = model_of(shape, recipe, layout, limits)
            model.prove(model.program.steps, model.program.bounds)


def test_every_step_has_extents() -> None:
    assert _EXTENTS.keys() == ARGUMENTS.keys()


# -- the table is true ----------------------------------------------------------------------------


class Runner:
    """Runs steps as plain Python in watched arrays."""

    def __init__(
        self, model: Model, n_tokens: int, position: int, n_outputs: int,
        sequences: Sequence[SequenceTokens] = (),
    ) -> None:  # fmt: skip
        self.model = model
        program, bounds = model.program, model.program.bounds
        sizes, layout = program.layout.sizes, program.layout
        memory = Memory.allocate(
            n=sizes["n"] - HEADER,
            f=sizes["f"],
            q=sizes["q"],
            kv=sizes["kv"] * program.n_slots,
            files=[model.data],
        )
        program.fill(memory)
        n_used = bounds.counts[N_PAIRS] // bounds.span.n_tokens
        sequences = sequences or [SequenceTokens(program.n_slots - 1, position, n_tokens)]
        write_sequences(memory.n, sequences, sizes["kv"])
        memory.n[[N_OUTPUTS, N_PAIRS, N_OUTPUT_PAIRS]] = (
            n_outputs, n_tokens * n_used, n_outputs * n_used,
        )  # fmt: skip
        memory.n[layout.ids : layout.ids + n_tokens] = bounds.n_vocab - 1
        rows = range(n_tokens - n_outputs, n_tokens)
        memory.n[layout.rows : layout.rows + n_outputs] = rows
        self.arrays = {
            "n": Watched("n", memory.n), "f": Watched("f", memory.f), "q": Watched("q", memory.q),
            "kv": Watched("kv", memory.kv), "w": Watched("w", model.data),
        }  # fmt: skip

    def run(self, step_: Step) -> None:
        kernel_function(step_.kernel, "generic")(0, 1, *self.arrays.values(), *step_.arguments)

    def run_within(self, step_: Step) -> None:
        """Run a step that may touch its extents, in the cache those of any slot, and the header."""
        bounds = self.model.program.bounds
        call = Call(step_.types, bounds, bounds.span)
        for watched in self.arrays.values():
            watched.is_allowed[:] = False
        self.arrays["n"].is_allowed[:HEADER] = True
        for array, first, size, _ in extents_of(step_, call):
            for slot in range(self.model.program.n_slots if array == "kv" else 1):
                at = first + slot * self.model.program.layout.sizes["kv"]
                self.arrays[array].is_allowed[at : at + size] = True
        self.run(step_)
        for watched in self.arrays.values():
            watched.is_allowed[:] = True


def fewer_rows(steps: Sequence[Step]) -> Iterator[Step]:
    """Matrices of three rows: plain Python is slow. What a step claims shrinks with it."""
    for each in steps:
        at = each.named
        if "n_out" in at and at["n_in"] >= 32:
            each = each.with_arguments(n_out=min(3, at["n_out"]))
        yield each


def recipe_of(type_: str) -> str:
    name = f"all {type_}"
    RECIPES.setdefault(name, (T[type_],) * 4 + (0,))  # type: ignore[arg-type]
    return name


@pytest.mark.slow
@pytest.mark.parametrize(("type_", "n_expert"), [*((t, 3) for t in ALL_TYPES), ("F32", 0)])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_no_step_touches_what_the_table_does_not_claim(type_: str, n_expert: int) -> None:
    """Every access of the plain kernels, at the largest numbers that a call may bring."""
    width = T[type_].block_size if T[type_].block_size > 1 else 10
    shape = Shape(
        n_layer=1, n_embd=width, n_head=width // 2 if width < 32 else width // 32,
        n_head_kv=1, n_ff=width, n_expert=n_expert, n_expert_used=min(2, n_expert),
        n_vocab=5, n_ctx=35,
    )  # fmt: skip
    key_type, value_type = ("Q8_0", "F16") if n_expert else ("F16", "Q8_0")
    limits = Limits(35, 2, 2, 1, key_type=key_type, value_type=value_type)
    model = model_of(shape, recipe_of(type_), "merged", limits)
    runner = Runner(model, n_tokens=2, position=33, n_outputs=2)
    for each in fewer_rows(model.program.steps):
        runner.run_within(each)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["gemma4-e", "gemma4-moe", "deepseek2", "deepseek2-old", "lfm2", "nemotron_h", "qwen3next"],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_no_step_of_an_architecture_touches_what_the_table_does_not_claim(name: str) -> None:
    model = architecture(name, Limits(35, 2, 2, 1, key_type="Q8_0"))
    runner = Runner(model, n_tokens=2, position=33, n_outputs=2)
    for each in fewer_rows(model.program.steps):
        runner.run_within(each)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_no_step_of_an_encoder_touches_what_the_table_does_not_claim(name: str) -> None:
    model = architecture(name, Limits(35, 35, 35, 1).of_encoder(35))
    runner = Runner(model, n_tokens=35, position=0, n_outputs=35)
    for each in fewer_rows(model.program.steps):
        runner.run_within(each)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gemma3", "deepseek2", "lfm2", "nemotron_h", "qwen3next"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nor_with_tokens_of_several_sequences(name: str) -> None:
    model = architecture(name, Limits(35, 4, 4, 1, n_slots=3, key_type="Q8_0"))
    own = [SequenceTokens(2, 34, 1), SequenceTokens(0, 0, 2), SequenceTokens(1, 34, 1)]
    runner = Runner(model, n_tokens=4, position=0, n_outputs=4, sequences=own)
    for each in fewer_rows(model.program.steps):
        runner.run_within(each)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_cache_of_a_window_is_not_left_behind_its_end() -> None:
    model = architecture("gemma3", Limits(700, 2, 2, 1))
    runner = Runner(model, n_tokens=2, position=698, n_outputs=2)
    for each in fewer_rows(model.program.steps):
        runner.run_within(each)


@pytest.mark.parametrize(("name", "value"), [("window", 256), ("window", 0), ("n_ctx", 288)])
def test_a_cache_that_is_too_short_for_its_window_is_refused(name: str, value: int) -> None:
    model = architecture("gemma3", Limits(700, 2, 2, 1))
    i = next(i for i, s in enumerate(model.program.steps) if s.kernel.startswith("attention"))
    steps = with_argument(model.program.steps, i, name, value)
    with pytest.raises(ProgramError, match=r"in a cache of 288|of a cache of 256"):
        model.prove(steps, model.program.bounds)


@pytest.mark.parametrize("limits", LIMITS.values(), ids=list(LIMITS))
@pytest.mark.parametrize(
    "name",
    ["gemma4-dense", "gemma4-e", "gemma4-moe", "mistral4", "lfm2", "granitehybrid", "qwen3next"],
)
def test_programs_of_architectures_stay_inside_of_their_memory(name: str, limits: Limits) -> None:
    model = architecture(name, limits)
    model.prove(model.program.steps, model.program.bounds)


# -- no wrong program passes ----------------------------------------------------------------------

OFFSETS = {
    "n": {"ids", "at", "rows", "expert_ids", "expert_starts", "assignments", "experts"},
    "f": {"y", "x", "frequencies", "factor", "table", "gain", "epsilon", "xf", "partial", "q0",
          "k0", "v0", "scratch", "logits", "weights", "gate", "up", "scale", "cap",
          "sinks", "bias", "scales", "state", "taps", "beta", "alpha", "dt", "dt_bias", "a", "d"},
    "q": {"xq", "packed"},
    "kv": {"k_cache", "v_cache"},
    "w": {"w0"},
}  # fmt: skip
ARRAY_OF = {name: array for array, names in OFFSETS.items() for name in names}
MUTATED = [
    model_of(shape, recipe, layout, limits)
    for shape, recipe, layout, limits in (
        (TINY, "F32", "split", LIMITS["paged"]),
        (SMALL, "Q4_K_M", "merged", LIMITS["usual"]),
        (DENSE, "Q8_0", "split", LIMITS["all steps"]),
    )
] + [architecture(name, LIMITS["usual"]) for name in ("gemma4-moe", "deepseek2")]
MUTATED += [architecture(name, LIMITS["all steps"]) for name in ("lfm2", "nemotron_h", "qwen3next")]
MUTATED_IDS = ["floats", "mixed", "dense", "gemma4", "latents", "lfm2", "nemotron_h", "qwen3next"]


def with_argument(steps: Sequence[Step], i: int, name: str, value: int) -> list[Step]:
    return [*steps[:i], steps[i].with_arguments(**{name: value}), *steps[i + 1 :]]


def offsets_of(steps: Sequence[Step]) -> Iterator[tuple[int, str, int]]:
    """Yield step, name and value of every argument that says where something lies."""
    for i, each in enumerate(steps):
        arguments = each.named
        for argument, value in arguments.items():
            is_unused = argument == "xq" and each.types in ("F32", "F16", "BF16")
            is_absent = arguments.get(f"has_{argument}") == 0
            is_absent |= argument == "table" and arguments.get("n_rot") == 0
            if argument in ARRAY_OF and not is_unused and not is_absent:
                yield i, argument, value


@pytest.mark.slow
@pytest.mark.parametrize("model", MUTATED, ids=MUTATED_IDS)
def test_no_offset_may_leave_its_array(model: Model) -> None:
    """Every offset of every step."""
    steps, bounds = model.program.steps, model.program.bounds
    sizes = {**model.program.layout.sizes, "w": model.data.size}
    for i, name, value in offsets_of(steps):
        size = sizes[ARRAY_OF[name]]
        for wrong in (-1, size, value + size, 2**63):
            with pytest.raises(ProgramError, match=rf"^step {i}, {steps[i].kernel}: "):
                model.prove(with_argument(steps, i, name, wrong), bounds)


PARTS = {
    ("mul_rows", "x"), ("mul_rows", "y"), ("causal_conv", "x"), ("mamba2_scan", "dt"),
    ("delta_scan", "alpha"), ("sigmoid_gate", "gate"), ("silu_gate", "gate"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("model", MUTATED, ids=MUTATED_IDS)
def test_no_offset_may_lie_before_its_area(model: Model) -> None:
    steps, bounds = model.program.steps, model.program.bounds
    for i, name, value in offsets_of(steps):
        kernel = steps[i].kernel
        if kernel.startswith(("copy_parts", "head_matmul")) or (kernel, name) in PARTS:
            continue  # parts of rows begin inside of an area
        # a file is one area; a single float may as well be the one before it
        if name not in ("w0", "epsilon", "factor", "scale", "cap"):
            with pytest.raises(ProgramError):
                model.prove(with_argument(steps, i, name, value - 1), bounds)


@pytest.mark.parametrize(
    "use", ["ids", "rows", "expert_starts", "assignments", "experts", "expert_ids"]
)
def test_indices_must_not_lie_where_others_are_written(use: str) -> None:
    """Inside of memory, but over each other: the sorted pairs in the table of experts."""
    model = MUTATED[0]
    steps, bounds = model.program.steps, model.program.bounds
    offsets = {name: value for _, name, value in offsets_of(steps) if ARRAY_OF[name] == "n"}
    at = next(i for i, name, _ in offsets_of(steps) if name == use)
    for other, value in offsets.items():
        if other != use:
            with pytest.raises(ProgramError):
                model.prove(with_argument(steps, at, use, value), bounds)


@pytest.mark.parametrize(
    ("kernel", "flag", "argument"),
    [("attention", "has_sinks", "sinks"), ("top_k_gate", "has_bias", "bias")],
)
def test_what_a_flag_adds_must_lie_in_memory(kernel: str, flag: str, argument: str) -> None:
    model = MUTATED[0]
    steps, bounds = model.program.steps, model.program.bounds
    size = model.program.layout.sizes["f"]
    at = next(i for i, each in enumerate(steps) if each.kernel.startswith(kernel))
    for value in (size, size - 1, 2**62):
        model.prove(with_argument(steps, at, argument, value), bounds)
        with_flag = with_argument(steps, at, flag, 1)
        with pytest.raises(ProgramError, match=kernel):
            model.prove(with_argument(with_flag, at, argument, value), bounds)


def test_tables_of_experts_must_point_into_the_file() -> None:
    model = MUTATED[0]
    program = model.program
    for offset, table in program.bounds.tables.items():
        for wrong in (-1, model.data.size, model.data.size - 1):
            tables = {**program.bounds.tables, offset: [*table[:-1], wrong]}
            bounds = replace(program.bounds, tables=tables)
            if offset in {v for i, n, v in offsets_of(program.steps)
                          if n == "experts" and "matmul" in program.steps[i].kernel}:  # fmt: skip
                with pytest.raises(ProgramError):
                    model.prove(program.steps, bounds)


@pytest.mark.parametrize(
    "change",
    [
        {"span": Span(51, 51)},
        {"span": Span(50, 65)},
        {"n_vocab": 10**7},
        {"n_threads": 4},
        {"counts": {N_OUTPUTS: 51, N_PAIRS: 100, N_OUTPUT_PAIRS: 102}},
        {"counts": {N_OUTPUTS: 50, N_PAIRS: 101, N_OUTPUT_PAIRS: 100}},
        {"counts": {N_OUTPUTS: 50}},
        {"tables": {}},
    ],
    ids=str,
)
def test_calls_may_bring_no_more_than_there_is_room_for(change: dict[str, Any]) -> None:
    program = MUTATED[0].program
    with pytest.raises(ProgramError):
        MUTATED[0].prove(program.steps, replace(program.bounds, **change))


SOUND = [
    model_of(shape, recipe, "merged", Limits(7, 2, 2, 1, key_type=keys, value_type=values))
    for shape, recipe, keys, values in (
        (Shape(1, 8, 4, 2, 6, 3, 2, 5, 7), "F32", "F16", "Q8_0"),
        (Shape(1, 32, 2, 1, 32, 0, 0, 5, 7), recipe_of("Q8_0"), "Q8_0", "F16"),
    )
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(
    max_examples=80, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
)  # fmt: skip
@example(1, 0.0, 0, 0).via("a step as it is")
@given(
    st.sampled_from([0, 1]),
    st.floats(0, 1, exclude_max=True),
    st.integers(0, 18),
    st.integers(-70, 70) | st.integers(-5000, 5000),
)
def test_what_is_proved_stays_inside_when_it_runs(
    which: int, fraction: float, argument: int, delta: int
) -> None:
    """Any argument of any step, made any wrong number: what passes must be harmless."""
    model = SOUND[which]
    steps = model.program.steps
    i = math.floor(fraction * len(steps))
    names = ARGUMENTS[steps[i].name]
    assume(argument < len(names))
    value = steps[i].arguments[argument] + delta
    changed = with_argument(steps, i, names[argument], value)
    try:
        model.prove(changed, model.program.bounds)
    except ProgramError:
        return
    runner = Runner(model, n_tokens=2, position=5, n_outputs=2)
    for each in changed[: i + 1]:  # up to it, so that indices are there
        runner.run(each)


def test_there_is_room_for_each_sequence() -> None:
    model = model_of(TINY, "F32", "split", LIMITS["slots"])
    bounds = model.program.bounds
    with pytest.raises(ProgramError, match=r"rope_table: n\[.* \(sequences\) is not inside"):
        model.prove(model.program.steps, replace(bounds, n_sequences=bounds.n_sequences + 1))


def test_arguments_must_be_as_many_as_the_step_has() -> None:
    one = step("scale_rows", x=0, width=1, factor=0, count=N_TOKENS)
    one = replace(one, arguments=(*one.arguments, 17))
    with pytest.raises(ProgramError, match="wrong number of arguments"):
        prove([one], {"f": [(0, 1)]}, [np.empty(0, np.uint8)], Bounds(Span(1, 1)))


@pytest.mark.parametrize("types", [(k, v) for k in CACHE_TYPES for v in CACHE_TYPES])
def test_a_cache_may_be_filled_to_its_end_and_no_further(types: tuple[str, str]) -> None:
    limits = Limits(64, 16, 1, 2, key_type=types[0], value_type=types[1])
    model = model_of(TINY, "F32", "split", limits)
    bounds = model.program.bounds
    model.prove(model.program.steps, replace(bounds, span=Span(16, 64)))
    with pytest.raises(ProgramError, match="position 64 in a cache of 64"):
        model.prove(model.program.steps, replace(bounds, span=Span(16, 65)))

"""Whole models against published and llama.cpp's results, and the invariants of the cache."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.errors import ContextFullError, UnsupportedGgufError, UsageError
from gguf_hub.gguf.format import TensorSpec
from gguf_hub.gguf.memory.cache import CACHE_TYPES
from gguf_hub.gguf.memory.layout import Limits
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import QuantType
from gguf_hub.gguf.writer import write_gguf
from gguf_hub.run.kernels.build.cpu import usable_isas
from gguf_hub.run.kernels.build.library import kernel_function
from gguf_hub.run.kernels.vm.active_threads import ActiveThreads
from gguf_hub.run.kernels.vm.machine import PlainMachine
from gguf_hub.run.model.builder import ProgramBuilder
from gguf_hub.run.model.limits import auto_threads
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.model.weights import read_model
from tests import naive
from tests.synth import (
    CODE_RECIPES,
    LOGITS_RECIPES,
    LOGITS_TOKENS,
    TINY,
    Shape,
    write_logits_model,
    write_mixtral,
)


@pytest.fixture
def models(data: Path) -> Path:
    return data / "models"


@pytest.fixture
def open_model() -> Iterator[Any]:
    """Open models that are closed after the test."""
    opened: list[Transformer] = []

    def open_(path: Path, **options: Any) -> Transformer:
        opened.append(
            Transformer.open(GgufFile.open(path), ModelSettings(**{"n_threads": 2, **options}))
        )
        return opened[-1]

    yield open_
    for model in opened:
        model.close()


def greedy(model: Transformer, prompt: list[int], n: int) -> list[int]:
    tokens = list(prompt)
    logits = model.forward(tokens, 0)
    for _ in range(n):
        tokens.append(int(logits[-1].argmax()))
        logits = model.forward(tokens[-1:], len(tokens) - 1)
    return tokens[len(prompt) :]


def split_experts(source: Path, target: Path) -> Path:
    """Rewrite merged experts as one tensor for each, and the router in F16, as in December 2023."""
    file = GgufFile.open(source)
    tensors = []
    for name, info in file.tensors.items():
        data = file.tensor_bytes(name)
        if "_exps" not in name:
            tensors.append((info, data))
            continue
        shape, n_expert = info.shape[:2], info.shape[2]
        for e, part in enumerate(data.reshape(n_expert, -1)):
            single = name.replace("_exps.weight", f".{e}.weight")
            tensors.append((type(info)(single, shape, info.type, 0, part.nbytes), part))
    write_gguf(target, file.fields, tensors)
    return target


# -- published results ----------------------------------------------------------------------------


def test_stories_in_f32_follow_the_golden_text(models: Path, open_model: Any) -> None:
    golden = json.loads((models / "stories260K.golden.json").read_text())
    model = open_model(models / "stories260K.f32.gguf", n_threads=1)
    assert (
        greedy(model, golden["prompt"] if isinstance(golden["prompt"], list) else [1], 200)
        == (golden["greedy"][:200])
    )


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_0", "q5_1"])
def test_stories_follow_llama_cpp(kind: str, models: Path, open_model: Any) -> None:
    # greedy paths of lossy files part where two logits nearly tie, after some tens of tokens
    reference = json.loads((models / "llamacpp_reference.json").read_text())
    expected = reference["results"][f"stories260K.{kind}"]["greedy"][:20]
    assert greedy(open_model(models / f"stories260K.{kind}.gguf", n_threads=1), [1], 20) == expected


@pytest.mark.parametrize("layout", ["merged", "split"])
@pytest.mark.parametrize("kind", ["f32", "f16"])
def test_tiny_mixtral_has_the_expected_logits_and_routing(
    kind: str, layout: str, models: Path, open_model: Any, tmp_path: Path
) -> None:
    folder = models / "tiny-mixtral"
    path = folder / f"tiny-mixtral.{kind}.gguf"
    if layout == "split":
        path = split_experts(path, tmp_path / "split.gguf")
    expected = json.loads((folder / "expected.json").read_text())
    logits = np.array(expected["logits"])
    model = open_model(path, n_logits=None)
    found = model.forward(expected["tokens"], 0, all_logits=True)
    assert np.abs(found - logits).max() < 0.01
    assert (found.argmax(axis=1) == logits.argmax(axis=1)).sum() == 22
    n_prompt = len(expected["prompt"])
    assert greedy(model, expected["tokens"][:n_prompt], 12) == expected["greedy_continuation"]


def test_tiny_mixtral_routes_as_expected(models: Path, open_model: Any) -> None:
    folder = models / "tiny-mixtral"
    tokens = json.loads((folder / "expected.json").read_text())["tokens"]
    model = open_model(folder / "tiny-mixtral.f32.gguf", n_logits=None)
    model.forward(tokens, 0, all_logits=True)
    layers = model.routing(len(tokens))
    entries = json.loads((folder / "routing.json").read_text())
    assert len(entries) == 44
    for entry in entries:
        routing = layers[entry["layer"]]
        assert routing.experts[entry["pos"]].tolist() == entry["experts"]
        assert routing.weights[entry["pos"]] == pytest.approx(entry["weights"], abs=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", LOGITS_RECIPES)
def test_every_recipe_has_llama_cpps_logits(
    recipe: str, data: Path, open_model: Any, tmp_path: Path
) -> None:
    path = write_logits_model(tmp_path / "model.gguf", recipe)
    known = json.loads((data / "logits" / "models.json").read_text())
    assert hashlib.sha256(path.read_bytes()).hexdigest() == known[recipe]  # llama.cpp read the same
    expected = np.load(data / "logits" / f"{recipe}.npy").astype(np.float32)
    found = open_model(path, n_logits=None).forward(LOGITS_TOKENS, 0, all_logits=True)
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((found * expected).sum(axis=1) / norms).min() >= 0.9995


@pytest.mark.slow
@pytest.mark.parametrize("recipe", sorted({*LOGITS_RECIPES} - {"F16", "BF16"}))
def test_with_an_exact_cache_activations_are_rounded_as_llama_cpp_does(
    recipe: str, data: Path, open_model: Any, tmp_path: Path
) -> None:
    """Another order of sums moves logits by 5e-7, one number rounded otherwise by some 5e-3."""
    path = write_logits_model(tmp_path / "model.gguf", recipe)
    model = open_model(path, n_logits=None, key_type="F32", value_type="F32")
    found = model.forward(LOGITS_TOKENS, 0, all_logits=True)[-2:]
    expected = np.load(data / "logits" / "exact.npy")[LOGITS_RECIPES.index(recipe)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", CODE_RECIPES)
def test_types_whose_weights_are_codes_give_the_logits_of_their_weights(
    recipe: str, open_model: Any, tmp_path: Path
) -> None:
    shape = replace(SMALL, n_expert=0)
    path = write_mixtral(tmp_path / "codes.gguf", shape, recipe=recipe)
    floats = write_floats(path, tmp_path / "floats.gguf")
    found, expected = (
        open_model(each, n_logits=None).forward(TOKENS, 0, all_logits=True)
        for each in (path, floats)
    )
    norms = np.linalg.norm(found, axis=1) * np.linalg.norm(expected, axis=1)
    assert ((found * expected).sum(axis=1) / norms).min() >= 0.999


@pytest.mark.slow
def test_logits_are_nearer_to_those_of_float_weights_than_llama_cpps(
    data: Path, open_model: Any, tmp_path: Path
) -> None:
    """It rounds more: activations to halves before weights of F16 and BF16."""
    exact, caches = np.load(data / "logits" / "exact.npy"), {"key_type": "F32", "value_type": "F32"}
    for recipe, theirs in zip(LOGITS_RECIPES, exact, strict=True):
        path = write_logits_model(tmp_path / f"{recipe}.gguf", recipe)
        floats = write_floats(path, tmp_path / f"{recipe}.floats.gguf")
        ours, expected = (
            open_model(each, n_logits=None, **caches).forward(LOGITS_TOKENS, 0, all_logits=True)
            for each in (path, floats)
        )
        far, near = (np.abs(each - expected[-2:]).mean() for each in (theirs, ours[-2:]))
        assert near <= far + 1e-6, recipe


def write_floats(path: Path, target: Path) -> Path:
    """Write a model with its weights as F32."""
    with GgufFile.open(path) as file:
        weights = [
            (TensorSpec(name, info.shape, QuantType.F32), naive.dequantize(info.type, raw))
            for name, info in file.tensors.items()
            for raw in [file.tensor_bytes(name)]
        ]
        write_gguf(target, file.fields, weights)
    return target


# -- invariants -----------------------------------------------------------------------------------

SMALL = Shape(
    n_layer=2, n_embd=256, n_head=8, n_head_kv=2, n_ff=256, n_expert=4, n_expert_used=2,
    n_vocab=300, n_ctx=128,
)  # fmt: skip
TOKENS = [1, 17, 250, 4, 4, 99, 260, 31, 5, 7, 123, 200, 13]


@pytest.fixture(params=["F32", "Q4_K_M", "Q5_0"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return write_mixtral(tmp_path / "model.gguf", SMALL, recipe=request.param, seed=3)


def test_logits_do_not_depend_on_how_the_prompt_is_cut(path: Path, open_model: Any) -> None:
    whole = open_model(path, n_logits=None).forward(TOKENS, 0, all_logits=True)
    pieces = open_model(path, n_batch=4).forward(TOKENS, 0)
    np.testing.assert_array_equal(pieces[-1], whole[-1])
    single = open_model(path)
    for i, token in enumerate(TOKENS):
        np.testing.assert_array_equal(single.forward([token], i)[0], whole[i])


def test_logits_do_not_depend_on_the_number_of_threads(path: Path, open_model: Any) -> None:
    one = open_model(path, n_threads=1).forward(TOKENS, 0)
    three = open_model(path, n_threads=3).forward(TOKENS, 0)
    np.testing.assert_array_equal(one, three)


def test_logits_do_not_depend_on_how_many_threads_have_a_core(
    path: Path, open_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [open_model(path, n_threads=1).forward(TOKENS[: i + 1], 0)
                for i in range(len(TOKENS))]  # fmt: skip
    numbers = itertools.cycle([3, 1, 2, 2, 3])
    monkeypatch.setattr(ActiveThreads, "choose", lambda *_: next(numbers))
    model = open_model(path, n_threads=3)
    for _ in range(3):
        found = [model.forward([token], i) for i, token in enumerate(TOKENS)]
        np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("cache_type", CACHE_TYPES)
def test_logits_do_not_depend_on_the_instruction_set(
    cache_type: str, path: Path, open_model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but plain loops add in one order, whatever the width of their vectors."""
    found = []
    for isa in usable_isas()[1:]:
        monkeypatch.setenv("GGUF_HUB_ISA", isa)
        model = open_model(path, key_type=cache_type, value_type=cache_type, n_logits=None)
        found.append(model.forward(TOKENS, 0, all_logits=True))
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])


def test_what_stood_later_in_the_cache_does_not_matter(path: Path, open_model: Any) -> None:
    model = open_model(path)
    first = model.forward(TOKENS[:5], 0)
    model.forward(TOKENS[5:], 5)
    model.forward(TOKENS[:4], 0)
    np.testing.assert_array_equal(model.forward(TOKENS[4:5], 4), first)


@pytest.mark.parametrize(("key_type", "value_type"), [("Q8_0", "F16"), ("Q8_0", "Q8_0")])
def test_a_quantised_cache_gives_nearly_the_same_logits(
    key_type: str, value_type: str, path: Path, open_model: Any
) -> None:
    expected = open_model(path, n_logits=None).forward(TOKENS, 0, all_logits=True)
    model = open_model(path, n_logits=None, key_type=key_type, value_type=value_type)
    found = model.forward(TOKENS, 0, all_logits=True)
    # a step errs by up to 0.5 / 127 of the largest of 32 numbers, evenly spread: 0.6 % of a usual
    # one. Each quantised matrix that comes after rounds its activations as coarsely, some ten times
    # in two layers, and a change of its input rounds them anew: sqrt(2 x 10) x 0.6 % = 2.7 %.
    scale = np.sqrt((expected**2).mean(axis=1))
    assert (np.sqrt(((found - expected) ** 2).mean(axis=1)) < 0.04 * scale).all()
    assert model.cache_bytes(1) < open_model(path).cache_bytes(1)


@pytest.mark.parametrize("recipe", ["F16", "Q2_K", "Q3_K_M", "Q6_K"])
def test_the_layout_of_the_experts_does_not_change_a_bit(
    recipe: str, tmp_path: Path, open_model: Any
) -> None:
    merged = write_mixtral(tmp_path / "m.gguf", SMALL, recipe=recipe, layout="merged")
    split = split_experts(merged, tmp_path / "s.gguf")
    expected = open_model(merged).forward(TOKENS, 0)
    np.testing.assert_array_equal(open_model(split).forward(TOKENS, 0), expected)


def open_plain(path: Path, limits: Limits) -> Transformer:
    """Open a model whose steps run element by element in Python."""
    file = GgufFile.open(path)
    config, weights = read_model(file)
    program = ProgramBuilder(config, weights, limits).build()
    machine = PlainMachine(program.memory([file.data]), cache(kernel_function))
    return Transformer(config, program, machine, limits)


@pytest.mark.slow
def test_compiled_steps_equal_plain_python(tmp_path: Path, open_model: Any) -> None:
    """The whole graph, run element by element in Python, is the oracle of the compiled one."""
    path = write_mixtral(tmp_path / "tiny.gguf", TINY, recipe="F32")
    limits = Limits(n_ctx=8, n_batch=4, n_outputs=1, n_threads=1)
    plain = open_plain(path, limits).forward([1, 2, 3], 0)
    compiled = open_model(path, n_ctx=8, n_batch=4).forward([1, 2, 3], 0)
    np.testing.assert_allclose(compiled, plain, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(usable_isas()[-1] == "generic", reason="plain loops add in any order")
def test_compiled_sequences_equal_plain_python(tmp_path: Path, open_model: Any) -> None:
    """Several sequences in one pass, to the bit: products of integers have no order."""
    path = write_mixtral(tmp_path / "tiny.gguf", replace(TINY, n_layer=1), recipe="Q8_0")
    limits = Limits(n_ctx=8, n_batch=2, n_outputs=2, n_threads=1, n_slots=2)
    plain = open_plain(path, limits)
    compiled = open_model(path, n_ctx=8, n_batch=2, n_logits=2, n_slots=2)
    for slot, tokens in enumerate(([1, 2], [5])):
        expected = compiled.forward(tokens, 0, slot=slot)
        np.testing.assert_array_equal(plain.forward(tokens, 0, slot=slot), expected)
    for rows in ([(1, 4, 1), (0, 9, 2)], [(0, 6, 3), (1, 3, 2)]):
        np.testing.assert_array_equal(plain.decode(rows), compiled.decode(rows))


# -- what cannot be -------------------------------------------------------------------------------


def test_more_tokens_than_the_context_holds_are_refused(tmp_path: Path, open_model: Any) -> None:
    model = open_model(write_mixtral(tmp_path / "m.gguf", SMALL), n_ctx=8)
    with pytest.raises(ContextFullError, match="9 tokens do not fit a context of 8"):
        model.forward([1, 2], 7)


def test_a_missing_tensor_is_named(tmp_path: Path, open_model: Any) -> None:
    file = GgufFile.open(write_mixtral(tmp_path / "m.gguf", SMALL))
    kept = [(info, file.tensor_bytes(name)) for name, info in file.tensors.items()
            if name != "blk.1.ffn_down.3.weight"]  # fmt: skip
    write_gguf(tmp_path / "less.gguf", file.fields, kept)
    with pytest.raises(UnsupportedGgufError, match=r"missing tensor `blk.1.ffn_down.3.weight`"):
        open_model(tmp_path / "less.gguf")


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf])
@pytest.mark.filterwarnings("error")
def test_rope_factors_that_nothing_can_be_divided_by_are_refused(
    wrong: float, tmp_path: Path, open_model: Any
) -> None:
    file = GgufFile.open(write_mixtral(tmp_path / "m.gguf", SMALL))
    factors = np.ones(SMALL.n_embd // SMALL.n_head // 2, np.float32)
    factors[3] = wrong
    kept = [(info, file.tensor_bytes(name)) for name, info in file.tensors.items()]
    spec = TensorSpec("rope_freqs.weight", factors.shape, QuantType.F32)
    write_gguf(tmp_path / "wrong.gguf", file.fields, [*kept, (spec, factors.view(np.uint8))])
    with pytest.raises(UnsupportedGgufError, match=r"`rope_freqs\.weight` has numbers that are"):
        open_model(tmp_path / "wrong.gguf")


def test_angles_that_are_no_numbers_are_refused(tmp_path: Path, open_model: Any) -> None:
    file = GgufFile.open(write_mixtral(tmp_path / "m.gguf", TINY))
    data: list[Any] = [(info, file.tensor_bytes(name)) for name, info in file.tensors.items()]
    factors = np.full(8, 1e-45, np.float32)
    data.append((TensorSpec("rope_freqs.weight", (8,), QuantType.F32), factors))
    write_gguf(tmp_path / "more.gguf", file.fields, data)
    with pytest.raises(UnsupportedGgufError, match="angles of the position embedding"):
        open_model(tmp_path / "more.gguf")


def test_a_negative_size_is_refused(tmp_path: Path, open_model: Any) -> None:
    with pytest.raises(UsageError, match="n_ctx -1: expected 0"):
        open_model(write_mixtral(tmp_path / "m.gguf", SMALL), n_ctx=-1)


def test_an_unknown_cache_type_is_refused(tmp_path: Path, open_model: Any) -> None:
    with pytest.raises(UsageError, match="cache type `Q5_1`: expected one of F32, F16, Q8_0"):
        open_model(write_mixtral(tmp_path / "m.gguf", SMALL), value_type="Q5_1")


@pytest.mark.parametrize(
    ("active_bytes", "n_cores", "expected"),
    [(10**5, 8, 1), (2 * 10**7, 8, 2), (7 * 10**9, 8, 8), (7 * 10**9, 1, 1)],
)
def test_small_models_get_fewer_threads(active_bytes: int, n_cores: int, expected: int) -> None:
    assert auto_threads(active_bytes, n_cores) == expected


@pytest.mark.parametrize("layout", ["split", "merged"])
def test_a_token_reads_only_the_experts_in_use(layout: str, tmp_path: Path) -> None:
    file = GgufFile.open(write_mixtral(tmp_path / "m.gguf", SMALL, layout=layout, recipe="Q4_K_M"))
    config, weights = read_model(file)
    by_name = {name: info.size_bytes for name, info in file.tensors.items()}
    experts = sum(size for name, size in by_name.items() if "ffn_" in name and "norm" not in name
                  and "gate_inp" not in name)  # fmt: skip
    unread = by_name["token_embd.weight"] + experts // 2  # two of four are used
    norms = sum(size for name, size in by_name.items() if "norm" in name)
    expected = sum(by_name.values()) - unread - norms
    assert weights.active_bytes(config) == expected


# -- slots ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("n_threads", [1, 2])
@pytest.mark.parametrize("recipe", ["stories260K", "Q4_K_M"])
def test_sequences_in_slots_do_not_know_of_each_other(
    recipe: str, n_threads: int, models: Path, tmp_path: Path, open_model: Any
) -> None:
    # one pass for several sequences gives the bits of a pass for each
    path = models / "stories260K.f32.gguf"
    if recipe != "stories260K":
        shape = replace(TINY, n_embd=256, n_ff=512, n_vocab=512, n_ctx=64)
        path = tmp_path / "mixtral.gguf"
        write_mixtral(path, shape, recipe=recipe)
    alone = open_model(path, n_ctx=64, n_threads=n_threads)
    model = open_model(path, n_ctx=64, n_threads=n_threads, n_slots=5, n_logits=None)
    texts = {3: [1, 403, 407, 261], 0: [1, 378], 4: [1, 403, 407, 5, 6, 7], 1: [1, 9, 8]}
    for slot, tokens in texts.items():
        model.forward(tokens, 0, slot=slot)
    for count in (4, 3, 2, 1, 4):
        for slot in list(texts)[:count]:
            texts[slot].append(20 + slot)
        rows = [(slot, texts[slot][-1], len(texts[slot]) - 1) for slot in list(texts)[:count]]
        for (slot, _, _), logits in zip(rows, model.decode(rows), strict=True):
            assert np.array_equal(logits, alone.forward(texts[slot], 0)[-1])


def test_parts_of_prompts_share_a_pass_with_tokens_of_texts(models: Path, open_model: Any) -> None:
    path = models / "stories260K.f32.gguf"
    alone = open_model(path, n_ctx=64, n_logits=None)
    model = open_model(path, n_ctx=64, n_batch=40, n_threads=2, n_slots=4, n_logits=None)
    prompts = {0: [1, 403, 407], 1: list(range(300, 320)), 2: [1, 9], 3: [7]}
    model.forward(prompts[0], 0)
    first = model.forward_parts(
        [(1, prompts[1][:18], 0, 0), (0, [261], 3, 1), (2, prompts[2], 0, 2)]
    )
    rest = model.forward_parts([(3, [7], 0, 1), (1, prompts[1][18:], 18, 1), (0, [5], 4, 1)])
    expected = [
        *alone.forward([*prompts[0], 261], 0), *alone.forward(prompts[2], 0, all_logits=True),
        *alone.forward([7], 0), *alone.forward(prompts[1], 0),
        *alone.forward([*prompts[0], 261, 5], 0),
    ]  # fmt: skip
    np.testing.assert_array_equal(np.concatenate([first, rest]), expected)
    with pytest.raises(UsageError, match="41 tokens of 2 slots: expected at most 40 of 32"):
        model.forward_parts([(0, [5], 5, 1), (1, [5] * 40, 20, 0)])
    with pytest.raises(ContextFullError, match="65 tokens do not fit a context of 64"):
        model.forward_parts([(2, [5], 2, 1), (1, [5] * 5, 60, 1)])


def test_a_sequence_that_does_not_fit_is_refused(models: Path, open_model: Any) -> None:
    model = open_model(models / "stories260K.f32.gguf", n_ctx=8, n_slots=2, n_logits=None)
    with pytest.raises(ContextFullError, match="9 tokens do not fit a context of 8"):
        model.decode([(0, 5, 0), (1, 5, 8)])


@pytest.mark.parametrize("kind", CACHE_TYPES)
def test_a_cache_is_copied_saved_and_put_back(kind: str, models: Path, open_model: Any) -> None:
    model = open_model(
        models / "stories260K.f32.gguf", n_ctx=70, n_slots=2, key_type=kind, value_type=kind
    )
    tokens = list(range(300, 340))
    expected = model.forward([*tokens, 5], 0)
    model.forward(tokens, 0)
    saved = model.save_cache(len(tokens))
    model.copy_cache(0, 1, len(tokens))
    model.forward([7] * 50, 0)
    assert np.array_equal(model.forward([5], len(tokens), slot=1), expected)
    model.load_cache(saved, len(tokens))
    assert np.array_equal(model.forward([5], len(tokens)), expected)
    with pytest.raises(UsageError, match=f"a saved cache of {saved.size - 1} numbers: expected"):
        model.load_cache(saved[1:], len(tokens))


def test_embeddings_are_what_logits_are_computed_from(models: Path, open_model: Any) -> None:
    model = open_model(models / "stories260K.f32.gguf", n_ctx=64, n_batch=4, n_logits=None)
    tokens = [1, 403, 407, 261, 378, 432]
    hidden = model.embed(tokens)
    assert hidden.shape == (6, 64)
    file = GgufFile.open(models / "stories260K.f32.gguf")
    name = "output.weight" if "output.weight" in file.tensors else "token_embd.weight"
    matrix = file.tensor_bytes(name).view(np.float32).reshape(512, 64)
    logits = model.forward(tokens, 0, all_logits=True)
    assert np.abs(hidden @ matrix.T - logits).max() < 1e-3

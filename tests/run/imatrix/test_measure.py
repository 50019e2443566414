"""The sums: against formulas, other layouts, llama.cpp's form, and runs that were interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gguf_hub.errors import GgufHubError
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import FileType
from gguf_hub.run.imatrix import Measurement, measure, statistics_of
from gguf_hub.run.model.config import read_config, read_graph
from gguf_hub.run.model.rope import RopeConfig
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.quants.imatrix import Entry, ImportanceMatrix
from gguf_hub.run.quants.quantize import quantize_file
from tests.run.kernels.test_attention import oracle
from tests.synth import TINY, Shape, write_mixtral

NOTHING = ImportanceMatrix({})
CHUNKS = np.random.default_rng(5).integers(3, 250, (4, 24)).astype(np.int32)
SETTINGS = ModelSettings(
    n_ctx=24, n_batch=16, n_logits=None, n_threads=2, key_type="F32", value_type="F32"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_mixtral(tmp_path / "m.gguf", TINY, layout="merged", recipe="F32")


def measured(path: Path, chunks: np.ndarray = CHUNKS, **options) -> Measurement:
    options = {"bos_id": None, "before": NOTHING, "datasets": ["x"], **options}
    with GgufFile.open(path) as file, Transformer.open(file, SETTINGS) as model:
        return measure(model, file, chunks, **options)


def test_sums_are_those_of_what_enters(path: Path) -> None:
    matrix = measured(path, has_output=True).matrix
    file = GgufFile.open(path)
    rows = file.tensor_bytes("token_embd.weight").view(np.float32).reshape(-1, TINY.n_embd)
    x = rows[CHUNKS.ravel()].astype(np.float64)
    x /= np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5)
    x *= file.tensor_bytes("blk.0.attn_norm.weight").view(np.float32)
    for name in ("attn_q", "attn_k", "attn_v"):
        entry = matrix.entries[f"blk.0.{name}.weight"]
        assert entry.counts.tolist() == [CHUNKS.size]
        assert np.allclose(entry.sums[0], (x**2).sum(axis=0), rtol=1e-5)
    with GgufFile.open(path) as file, Transformer.open(file, SETTINGS) as model:
        hidden = np.concatenate([model.embed(chunk.tolist()) for chunk in CHUNKS])
    head = matrix.entries["output.weight"]
    assert np.allclose(head.sums[0], (hidden.astype(np.float64) ** 2).sum(axis=0), rtol=1e-5)


def test_experts_count_the_tokens_that_chose_them(path: Path) -> None:
    chunk = CHUNKS[:1, :16]
    matrix = measured(path, chunk).matrix
    with GgufFile.open(path) as file, Transformer.open(file, SETTINGS) as model:
        model.forward(chunk[0].tolist(), 0, all_logits=True)
        routing = model.routing(16)
    for layer, found in enumerate(routing):
        chosen = np.bincount(found.experts.ravel(), minlength=TINY.n_expert)
        for part in ("gate", "up", "down"):
            entry = matrix.entries[f"blk.{layer}.ffn_{part}_exps.weight"]
            assert entry.counts.tolist() == chosen.tolist()
            assert ((entry.sums > 0).any(axis=1) == (chosen > 0)).all()
        router = matrix.entries[f"blk.{layer}.ffn_gate_inp.weight"].sums[0].astype(np.float64)
        both = matrix.entries[f"blk.{layer}.ffn_gate_exps.weight"].sums.astype(np.float64)
        assert np.allclose(both.sum(axis=0), TINY.n_expert_used * router, rtol=1e-5)


def test_sums_of_another_model_are_not_added_to(path: Path) -> None:
    other = Entry(np.ones((1, 5), np.float32), np.ones(1, np.int64))
    with pytest.raises(GgufHubError, match=r"`blk\.0\.attn_q\.weight`: expected"):
        measured(path, before=ImportanceMatrix({"blk.0.attn_q.weight": other}))


def test_the_layout_of_experts_makes_no_difference(path: Path, tmp_path: Path) -> None:
    merged = measured(path).matrix
    quantize_file(path, tmp_path / "split.gguf", FileType.F32, layout="split", n_threads=1)
    split = measured(tmp_path / "split.gguf").matrix
    assert merged.entries.keys() == split.entries.keys()
    for name, entry in merged.entries.items():
        assert np.array_equal(entry.sums, split.entries[name].sums), name


def test_what_goes_on_has_the_bits_of_what_was_never_interrupted(path: Path) -> None:
    saved: list[tuple[ImportanceMatrix, int]] = []
    whole = measured(path, save=lambda *parts: saved.append(parts), save_every=1).matrix
    assert [n_done for _, n_done in saved] == [1, 2, 3]
    for before, n_done in saved:
        resumed = measured(path, before=before, n_done=n_done).matrix
        assert resumed.n_chunks == len(CHUNKS)
        for name, entry in whole.entries.items():
            assert np.array_equal(resumed.entries[name].sums, entry.sums), name
            assert np.array_equal(resumed.entries[name].counts, entry.counts), name


def test_watching_changes_no_logits_and_gives_the_perplexity(path: Path) -> None:
    from gguf_hub.run.perplexity import ModelSource
    from gguf_hub.run.perplexity import measure as measure_perplexity

    with GgufFile.open(path) as file, Transformer.open(file, SETTINGS) as model:
        source = ModelSource(model, model.config.n_vocab, 1)
        expected = measure_perplexity(CHUNKS, source).perplexity
    assert measured(path, bos_id=1).perplexity == expected
    assert measured(path, bos_id=1, has_perplexity=False).perplexity is None


def test_activations_that_are_not_finite_are_named(tmp_path: Path) -> None:
    path = write_mixtral(tmp_path / "m.gguf", TINY, layout="merged", recipe="F32")
    file = GgufFile.open(path)
    at = file.start_of("blk.1.attn_norm.weight")
    file.close()
    with path.open("r+b") as raw:
        raw.seek(at)
        raw.write(np.array([np.inf], np.float32).tobytes())
    with pytest.raises(GgufHubError, match=r"enters tensor `blk\.1\.\w+\.weight` is not finite"):
        measured(path)


def test_statistics_are_those_of_llama_imatrix(path: Path) -> None:
    matrix = measured(path).matrix
    found = {each.name: each for each in statistics_of(matrix)}
    each, entry = found["blk.1.attn_q.weight"], matrix.entries["blk.1.attn_q.weight"]
    values = entry.sums[0].astype(np.float64) / entry.counts[0]
    assert each.total == pytest.approx(values.sum(), rel=1e-5)
    share = values / values.sum()
    assert each.entropy == pytest.approx(-(share * np.log2(share)).sum(), rel=1e-5)
    before = matrix.entries["blk.0.attn_q.weight"].sums[0]
    cosine = values @ before / np.linalg.norm(values) / np.linalg.norm(before)
    assert each.similarity == pytest.approx(cosine, rel=1e-5)
    assert found["blk.0.attn_q.weight"].similarity == 0


def test_every_matrix_of_a_layer_has_the_sums_of_a_forward_pass_in_float64(tmp_path: Path) -> None:
    shape = replace(TINY, n_layer=1, n_expert=0)
    path = write_mixtral(tmp_path / "dense.gguf", shape, recipe="F32")
    found = measured(path).matrix.entries
    with GgufFile.open(path) as file:
        weights = {
            name.removesuffix(".weight"): file.tensor_bytes(name)
            .view(np.float32)
            .reshape(info.shape[::-1])
            .astype(float)
            for name, info in file.tensors.items()
        }
        rope = read_config(read_graph(file.hparams)).rope
    sums: dict[str, np.ndarray] = {}
    for chunk in CHUNKS:
        for names, x in entering(weights, chunk, shape, rope):
            for name in names.split():
                sums[name] = sums.get(name, 0) + (x**2).sum(axis=0)
    assert found.keys() == {f"blk.0.{name}.weight" for name in sums}
    for name, expected in sums.items():
        assert np.allclose(found[f"blk.0.{name}.weight"].sums[0], expected, rtol=1e-4), name


def entering(
    weights: dict[str, np.ndarray], tokens: np.ndarray, shape: Shape, rope: RopeConfig
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names of matrices of the only layer, and what they are multiplied with, [T, n]."""
    n, d = len(tokens), shape.n_embd // shape.n_head
    layer = {name.removeprefix("blk.0."): matrix for name, matrix in weights.items()}

    def normed(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5) * layer[name]

    residual = weights["token_embd"][tokens]
    x = normed(residual, "attn_norm")
    yield "attn_q attn_k attn_v", x
    q, k, v = ((x @ layer[f"attn_{part}"].T).reshape(n, -1, d) for part in "qkv")
    attended = oracle(q, k, v, rope).reshape(n, -1)
    yield "attn_output", attended
    residual = residual + attended @ layer["attn_output"].T
    x = normed(residual, "ffn_norm")
    yield "ffn_gate ffn_up", x
    gate, up = (x @ layer[f"ffn_{part}"].T for part in ("gate", "up"))
    yield "ffn_down", gate / (1 + np.exp(-gate)) * up

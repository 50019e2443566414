"""Perplexity and KL divergence of models whose predictions are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from gguf_hub.errors import GgufHubError, UsageError
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.perplexity import ModelSource, Result, cut, measure
from gguf_hub.run.perplexity.measure import blocks_of, kl_divergence
from gguf_hub.run.tokenizer import load_tokenizer
from tests.notes import Notes
from tests.run.perplexity.fakes import Markov, random_probs, random_text

V, N_CTX = 7, 32
TEXT = random_text(V, 10 * N_CTX + 5)


def run(
    model: Markov, base: Markov | None = None, n_ctx: int = N_CTX, bos: int | None = 0
) -> Result:
    source = ModelSource(model, V, bos)
    other = ModelSource(base, V, bos) if base else None
    return measure(cut(TEXT, n_ctx), source, base=other)


def scored_pairs(n_ctx: int = N_CTX, bos: int | None = 0) -> list[tuple[int, int]]:
    """(token before, token to predict), written down from llama.cpp's definition."""
    pairs = []
    for start in range(0, len(TEXT) // n_ctx * n_ctx, n_ctx):
        chunk = TEXT[start : start + n_ctx]
        if bos is not None:
            chunk[0] = bos
        pairs += [(chunk[j], chunk[j + 1]) for j in range(n_ctx // 2, n_ctx - 1)]
    return pairs


# -- perplexity -----------------------------------------------------------------------------------


def test_a_model_that_knows_nothing_chooses_among_all_tokens() -> None:
    found = run(Markov(np.full((V, V), 1 / V))).perplexity
    assert found.value.value == pytest.approx(V)
    assert found.value.error == pytest.approx(0, abs=1e-6)
    assert found.n_scored == 10 * (N_CTX - 1 - N_CTX // 2)


@pytest.mark.parametrize("bos", [0, None])
@pytest.mark.parametrize("n_ctx", [4, 5, 32, 33, 160])
def test_perplexity_is_the_mean_over_the_second_halves(n_ctx: int, bos: int | None) -> None:
    probs = random_probs(V, 1)
    found = run(Markov(probs, shift=50.0), n_ctx=n_ctx, bos=bos)
    nll = np.array([-math.log(probs[pair]) for pair in scored_pairs(n_ctx, bos)])
    assert found.perplexity.n_scored == len(nll)
    assert found.perplexity.nll.value == pytest.approx(nll.mean(), rel=1e-6)
    error = math.sqrt((np.mean(nll**2) - nll.mean() ** 2) / (len(nll) - 1))
    assert found.perplexity.nll.error == pytest.approx(error, rel=1e-5)
    assert found.perplexity.value.value == pytest.approx(math.exp(nll.mean()), rel=1e-6)
    assert found.perplexity.value.error == pytest.approx(math.exp(nll.mean()) * error, rel=1e-5)
    assert (found.n_chunks, found.n_ctx) == (len(TEXT) // n_ctx, n_ctx)


def test_a_chunk_starts_anew_with_the_first_token_of_a_text() -> None:
    model = Markov(random_probs(V, 1))
    run(model, bos=5)
    assert len(model.calls) == 20
    for i in range(10):
        context, rest = model.calls[2 * i], model.calls[2 * i + 1]
        chunk = TEXT[N_CTX * i : N_CTX * (i + 1)]
        assert context == ([5, *chunk[1:16]], 0, False)
        assert rest == (chunk[16:31], 16, True)  # the last token has nothing to predict


@pytest.mark.parametrize("n_batch", [1, 63, 64, 65, 100, 128])
def test_batches_do_not_change_the_result(n_batch: int) -> None:
    text = random_text(V, 3 * 500)
    probs = random_probs(V, 2)
    results = []
    for size in (n_batch, 512):
        model = Markov(probs, size)
        results.append(measure(cut(text, 500), ModelSource(model, V, 0)))
    assert results[0] == results[1]


def test_progress_counts_chunks() -> None:
    notes = Notes()
    measure(cut(TEXT, N_CTX), ModelSource(Markov(random_probs(V, 1)), V, 0), progress=notes)
    assert notes.tasks == [("perplexity", 10)]


@pytest.mark.parametrize("n_ctx", [4, 5, 130, 512])
def test_blocks_cover_what_is_scored(n_ctx: int) -> None:
    blocks = blocks_of(n_ctx)
    positions = [at for start, stop in blocks for at in range(start, stop)]
    assert positions == list(range(n_ctx // 2, n_ctx - 1))
    assert max(stop - start for start, stop in blocks) <= 64


def test_the_chunks_of_a_text() -> None:
    assert cut(list(range(13)), 4).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert cut(list(range(13)), 4, 2).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert len(cut(list(range(13)), 4, 9)) == 3


@pytest.mark.parametrize(
    ("n", "n_ctx", "n_chunks", "message", "hint"),
    [
        (99, 50, None, "the text has 99 tokens: expected 100 or more", "`-c 49`"),
        (5, 50, None, "the text has 5 tokens: expected 100 or more", "give a longer text"),
        (99, 3, None, "chunks of 3 tokens: expected 4 or more", ""),
        (99, 4, 0, "0 chunks: expected 1 or more", ""),
    ],
)
def test_a_text_that_cannot_be_cut(
    n: int, n_ctx: int, n_chunks: int | None, message: str, hint: str
) -> None:
    with pytest.raises(UsageError, match=message) as found:
        cut(range(n), n_ctx, n_chunks)
    assert hint in (found.value.hint or "")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_not_finite_are_reported(value: float) -> None:
    model = Markov(random_probs(V, 1))
    model.logits[3, 3] = value
    with pytest.raises(GgufHubError, match="not finite"):
        run(model)


# -- against a base -------------------------------------------------------------------------------


def test_a_model_does_not_diverge_from_itself() -> None:
    probs = random_probs(V, 3)
    found = run(Markov(probs), Markov(probs, shift=-9.0, n_batch=64)).divergence
    assert found is not None
    assert found.kl.value == pytest.approx(0, abs=1e-6)
    assert found.same_top == found.same_top.__class__(1.0, 0.0)
    assert found.ratio.value == pytest.approx(1, abs=1e-6)
    exact = run(Markov(probs), Markov(probs)).divergence
    assert exact is not None
    assert (exact.kl.value, exact.kl_quantiles[1.0], exact.dp_rms.value) == (0, 0, 0)
    assert exact.correlation == pytest.approx(1)


def test_divergence_is_what_its_definition_says() -> None:
    p = random_probs(V, 4)
    q = (p + random_probs(V, 5)) / 2
    found = run(Markov(q), Markov(p)).divergence
    assert found is not None
    pairs = scored_pairs()
    kl = np.array([sum(p[i] * np.log(p[i] / q[i])) for i, _ in pairs])
    assert found.kl.value == pytest.approx(kl.mean(), rel=1e-5)
    assert found.kl.error == pytest.approx(kl.std() / math.sqrt(len(kl) - 1), rel=1e-4)
    assert found.kl_quantiles[0.0] == pytest.approx(kl.min(), rel=1e-4)
    assert found.kl_quantiles[0.5] == pytest.approx(np.median(kl), rel=1e-4)
    assert found.kl_quantiles[1.0] == pytest.approx(kl.max(), rel=1e-4)
    same = np.mean([p[i].argmax() == q[i].argmax() for i, _ in pairs])
    assert 0 < same < 1
    assert found.same_top.value == pytest.approx(same)
    assert found.same_top.error == pytest.approx(math.sqrt(same * (1 - same) / (len(kl) - 1)))
    dp = np.array([q[pair] - p[pair] for pair in pairs])
    assert found.dp_mean.value == pytest.approx(dp.mean(), rel=1e-4)
    assert found.dp_rms.value == pytest.approx(math.sqrt(np.mean(dp**2)), rel=1e-4)
    assert found.base == run(Markov(p)).perplexity


def test_the_error_of_the_ratio_knows_that_both_err_alike() -> None:
    """llama.cpp adds the two variances and takes off twice the covariance."""
    p = random_probs(V, 4)
    q = 0.9 * p + 0.1 / V
    found = run(Markov(q), Markov(p)).divergence
    assert found is not None
    a, b = (np.array([-math.log(m[pair]) for pair in scored_pairs()]) for m in (q, p))
    n = len(a)
    covariance = (np.mean(a * b) - a.mean() * b.mean()) / (n - 1)
    error = math.sqrt(a.var() / (n - 1) + b.var() / (n - 1) - 2 * covariance)
    assert found.ln_ratio.value == pytest.approx(a.mean() - b.mean(), rel=1e-4)
    assert found.ln_ratio.error == pytest.approx(error, rel=1e-4)
    assert found.correlation == pytest.approx(covariance * (n - 1) / (a.std() * b.std()), rel=1e-4)
    ratio = math.exp(a.mean() - b.mean())
    assert found.ratio.value == pytest.approx(ratio, rel=1e-4)
    assert found.ratio.error == pytest.approx(ratio * error, rel=1e-4)


def test_what_the_base_holds_impossible_does_not_count() -> None:
    base = np.log(np.array([[0.5, 0.5 - 1e-8, 1e-8]]))
    other = np.log(np.array([[0.5, 0.4, 0.1]]))
    expected = 0.5 * math.log((0.5 - 1e-8) / 0.4)
    assert kl_divergence(base, other)[0] == pytest.approx(expected, abs=1e-7)


def test_models_of_two_vocabularies_are_not_compared() -> None:
    model, base = ModelSource(Markov(random_probs(V, 1)), V, 0), Markov(random_probs(9, 1))
    with pytest.raises(UsageError, match="the model knows 7 tokens and the base 9"):
        measure(cut(TEXT, N_CTX), model, base=ModelSource(base, 9, 0))


# -- a real model ---------------------------------------------------------------------------------


def test_a_real_model_on_a_real_text(data: Path) -> None:
    file = GgufFile.open(data / "models" / "stories260K.f32.gguf")
    tokenizer = load_tokenizer(file.metadata)
    text = (data / "text" / "botchan.txt").read_text(encoding="utf-8")[:4000]
    chunks = cut(tokenizer.encode(text), 200, 3)
    options = {"n_ctx": 200, "n_threads": 2, "n_logits": None}
    with Transformer.open(file, ModelSettings(n_batch=64, **options)) as model:
        found = measure(chunks, ModelSource(model, model.config.n_vocab, tokenizer.bos_id))
    nll = []
    with Transformer.open(file, ModelSettings(**options)) as model:
        for chunk in chunks.tolist():
            logits = model.forward([1, *chunk[1:]], 0, all_logits=True).astype(np.float64)
            for at in range(100, 199):
                nll.append(np.log(np.exp(logits[at]).sum()) - logits[at][chunk[at + 1]])
    assert found.perplexity.n_scored == 3 * 99
    assert found.perplexity.nll.value == pytest.approx(np.mean(nll), rel=1e-9)


@pytest.mark.parametrize(("n", "said"), [(0, "0 tokens:"), (1, "1 token:"), (2, "2 tokens:")])
def test_a_short_text_is_counted_in_words(n: int, said: str) -> None:
    with pytest.raises(UsageError, match=f"the text has {said}"):
        cut([1] * n, 8)

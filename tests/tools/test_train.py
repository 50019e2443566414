"""The training code, at a toy size: the graph, resuming, and export against plain numpy.

Skipped where PyTorch and SentencePiece are not installed (the extra ``train``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("sentencepiece")

from tools import train_tiny_mixtral as training  # noqa: E402
from tools.tiny_mixtral import export, model, text  # noqa: E402
from tools.tiny_mixtral.reference import Reference  # noqa: E402

TOY = model.Config(n_vocab=512, n_ctx=32, n_embd=32, n_layer=2, n_head=4, n_head_kv=2, n_ff=48)
RECIPE = training.Recipe(
    n_steps=30, n_rows=4, n_workers=1, opening_steps=6, opening_rows=8, opening_ctx=16,
    warmup_steps=4, log_every=1, save_every=10, peak_lr=1e-2, peak_muon_lr=1e-2,
)  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    prefix = tmp_path_factory.mktemp("vocabulary") / "vocabulary"
    text.train_vocabulary(prefix, TOY.n_vocab, n_stories=200)
    return prefix.with_suffix(".model")


@pytest.fixture
def work(tmp_path: Path, vocabulary: Path) -> Path:
    (tmp_path / "vocabulary.model").write_bytes(vocabulary.read_bytes())
    return tmp_path


def toy(seed: int = 0) -> model.TinyMixtral:
    toy = model.TinyMixtral(TOY)
    toy.init_weights(seed)
    return toy


def test_attention_in_blocks_is_attention() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 37, 8).unbind()
    whole = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    for block in (1, 10, 37, 64):
        torch.testing.assert_close(model.attend(q, k, v, block), whole)


def test_experts_are_the_weighted_sum_of_the_two_best() -> None:
    torch.manual_seed(0)
    experts = toy().blocks[0].ffn
    x = torch.randn(20, TOY.n_embd)
    with torch.no_grad():
        out, balance, share = experts(x)
        probs = experts.router(x).softmax(-1)
        for row in range(20):
            best = probs[row].topk(2)
            wanted = sum(
                weight / best.values.sum()
                * experts.down[e]
                @ (torch.nn.functional.silu(experts.gate[e] @ x[row]) * (experts.up[e] @ x[row]))
                for weight, e in zip(best.values, best.indices, strict=True)
            )  # fmt: skip
            torch.testing.assert_close(out[row], wanted)
    assert share.sum() == pytest.approx(1)
    assert balance == pytest.approx(float(8 * (share * probs.mean(0)).sum()), rel=1e-5)


def test_no_position_sees_the_future() -> None:
    a = torch.randint(3, TOY.n_vocab, (1, 20))
    b = a.clone()
    b[0, 12:] = 5
    with torch.no_grad():
        one, other = toy()(a).logits, toy()(b).logits
    torch.testing.assert_close(one[0, :12], other[0, :12])
    assert not torch.allclose(one[0, 12:], other[0, 12:])


def test_the_learning_rate_rises_stays_and_falls_to_zero() -> None:
    recipe = training.Recipe(n_steps=1000, warmup_steps=100, decay_share=0.3)
    shares = [recipe.lr_share(step) for step in range(1001)]
    assert shares[0] == 0.01
    assert shares[100:700] == [1.0] * 600
    assert shares[850] == pytest.approx(0.5)
    assert shares[1000] == 0


def test_lessons_begin_with_openings_and_go_on_with_whole_stories(work: Path) -> None:
    lessons, _ = training.prepare(work, TOY, RECIPE)
    ids = torch.from_numpy(np.fromfile(work / "train.bin", np.uint16).astype(np.int64))
    for step in range(RECIPE.opening_steps):
        inputs, targets = lessons[step]
        assert inputs.shape == (8, 16)
        assert (inputs[:, 0] == text.BOS).all()
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
    inputs, targets = lessons[RECIPE.opening_steps + 2]
    size = RECIPE.n_rows * TOY.n_ctx
    assert torch.equal(inputs.flatten(), ids[2 * size : 3 * size])
    assert torch.equal(targets.flatten(), ids[2 * size + 1 : 3 * size + 1])


def test_a_head_of_the_last_layer_begins_by_saying_what_it_looks_at() -> None:
    """With all attention on one token, that token is what the untrained model expects."""
    config = model.Config()
    untrained = model.TinyMixtral(config)
    untrained.init_weights(0)
    attn = untrained.blocks[-1].attn
    with torch.no_grad():
        seen = torch.nn.functional.rms_norm(untrained.token_embd.weight, (config.n_embd,))
        values = attn.v(seen).unflatten(1, (config.n_head_kv, -1))  # [V, K, d]
        group = config.n_head // config.n_head_kv
        wrote = attn.output(values.repeat_interleave(group, 1).flatten(1))  # [V, D]
        best = (wrote @ untrained.output_weight().T).argmax(1)
    assert (best == torch.arange(config.n_vocab)).float().mean() > 0.95


def test_every_story_begins_with_bos_and_ends_with_eos(work: Path) -> None:
    text.write_tokens(work / "ids.bin", work / "vocabulary.model", 0, 50_000)
    ids = np.fromfile(work / "ids.bin", np.uint16)
    assert len(ids) >= 50_000
    assert (ids[0], ids[-1]) == (text.BOS, text.EOS)
    ends = np.flatnonzero(ids == text.EOS)
    assert (ids[ends[:-1] + 1] == text.BOS).all()
    assert (ids == text.BOS).sum() == len(ends)


def test_a_stopped_run_goes_on_as_if_it_had_not_been_stopped(work: Path, tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    class Stopping(training.Lessons):
        def __getitem__(self, step: int):
            if step == 15:
                raise Stop
            return super().__getitem__(step)

    lessons, held_out = training.prepare(work, TOY, RECIPE)
    with pytest.raises(Stop):
        stopping = Stopping(work / "train.bin", TOY, RECIPE)
        training.Run(work, TOY, RECIPE).train(stopping, held_out)
    resumed = training.Run(work, TOY, RECIPE)
    assert resumed.step == 10
    resumed.train(lessons, held_out)

    other = tmp_path / "whole"
    other.mkdir()
    whole = training.Run(other, TOY, RECIPE)
    whole.train(lessons, held_out)
    for one, two in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, two)


def test_training_learns_and_the_log_says_so(work: Path) -> None:
    import json

    run = training.Run(work, TOY, RECIPE)
    run.train(*training.prepare(work, TOY, RECIPE))
    rows = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert len(losses) == RECIPE.n_steps
    assert losses[-1] < losses[0] - 0.3
    shares = [row["expert_share"] for row in rows if "expert_share" in row][-1]
    assert np.sum(shares, axis=1) == pytest.approx([1, 1], abs=1e-3)


def test_the_exported_file_computes_what_pytorch_computes(tmp_path: Path, vocabulary: Path) -> None:
    torch.manual_seed(0)
    trained = toy(3)
    with torch.no_grad():
        for weight in trained.parameters():  # values that F16 holds exactly
            weight.copy_((weight * 3).half().float() if weight.dim() > 1 else weight + 0.25)
    path = tmp_path / "toy.gguf"
    export.write(path, trained, vocabulary)
    ids = [1, *torch.randint(3, TOY.n_vocab, (30,)).tolist()]
    with torch.no_grad():
        wanted = trained(torch.tensor([ids])).logits[0].numpy()
    got = Reference(path).forward(ids).logits
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)  # float32 in another order

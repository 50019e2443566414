"""The model that ships inside the package: what its file holds, and how well it tells stories.

Computed by the plain numpy forward pass of `tools.tiny_mixtral.reference`, not by the engine.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import gguf_hub
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.types import QuantType
from gguf_hub.run.chat import choose_format
from gguf_hub.run.tokenizer import load_tokenizer
from tools import stories
from tools.tiny_mixtral.reference import Reference, Traced

MODEL = Path(gguf_hub.__file__).parent / "data" / "tiny-mixtral.f16.gguf"
MAX_LOSS = 0.75
"""Nats per token; a model that knows no names or causes stays above."""


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference(MODEL)


@pytest.fixture(scope="module")
def tokenizer(reference: Reference):
    return load_tokenizer(reference.meta)


def held_out(count: int) -> list[str]:
    return list(stories.documents(stories.HELD_OUT + 500_000, count))


def test_the_file_is_small_enough_to_ship() -> None:
    assert MODEL.stat().st_size <= 12_000_000


def test_it_has_the_shape_of_a_mixtral_with_one_tensor_per_expert() -> None:
    with GgufFile.open(MODEL) as file:
        meta = file.metadata
        assert meta["general.architecture"] == "llama"
        assert (meta["llama.expert_count"], meta["llama.expert_used_count"]) == (8, 2)
        assert meta["llama.attention.head_count_kv"] < meta["llama.attention.head_count"]
        assert meta["llama.rope.freq_base"] == 1e6
        experts = [name for name in file.tensors if ".ffn_down." in name]
        assert len(experts) == 8 * meta["llama.block_count"]


def test_every_row_can_be_a_k_quant() -> None:
    with GgufFile.open(MODEL) as file:
        for info in file.tensors.values():
            assert info.shape[0] % 256 == 0, info.name
            assert info.type is (QuantType.F32 if "norm" in info.name else QuantType.F16)


def test_its_weights_are_finite_and_far_from_the_end_of_f16(reference: Reference) -> None:
    for name, weight in reference.weights.items():
        assert np.isfinite(weight).all(), name
        assert np.abs(weight).max() < 100, name


def test_its_vocabulary_reads_back_all_stories(tokenizer) -> None:
    for text in held_out(60):
        assert tokenizer.decode(tokenizer.encode(text, add_bos=False)) == text


@pytest.fixture(scope="module")
def traced(reference: Reference, tokenizer) -> list[tuple[list[int], Traced]]:
    texts = [tokenizer.encode(text) for text in held_out(12)]
    return [(ids, reference.forward(ids)) for ids in texts]


@pytest.mark.slow
def test_held_out_stories_are_well_predicted(traced: list[tuple[list[int], Traced]]) -> None:
    losses: list[float] = []
    for ids, trace in traced:
        logits = trace.logits[:-1].astype(np.float64)
        log_sum = np.log(np.exp(logits).sum(1))
        losses += list(log_sum - logits[np.arange(len(ids) - 1), ids[1:]])
    assert np.mean(losses) < MAX_LOSS


def test_every_expert_of_every_layer_gets_its_share(traced: list[tuple[list[int], Traced]]) -> None:
    counts = np.sum([trace.counts for _, trace in traced], axis=0)
    share = counts / counts.sum(1, keepdims=True)
    assert share.min() > 0.05
    assert share.max() < 0.25


def greedy(reference: Reference, ids: list[int], count: int) -> list[int]:
    ids = list(ids)
    for _ in range(count):
        ids.append(int(reference.forward(ids).logits[-1].argmax()))
    return ids


@pytest.mark.parametrize(
    ("beginning", "continues"),
    [
        ("Once upon a time, there was a brave fox named Mila.", " She"),
        ("Once upon a time, there was a brave fox named Otto.", " He"),
        ('"Nobody is as fast as I am!" said the hare. "Let us race to the old', " well"),
        ("Es war einmal eine kleine Maus mit dem", " Namen"),
        ("Il était une fois une petite souris qui s'appelait Nora. Elle habitait", " dans"),
    ],
    ids=["she", "he", "place", "German", "French"],
)
def test_it_knows_names_pronouns_and_languages(
    reference: Reference, tokenizer, beginning: str, continues: str
) -> None:
    ids = tokenizer.encode(beginning)
    more = tokenizer.encode(beginning + continues)[len(ids) :]
    assert tokenizer.decode(greedy(reference, ids, len(more))).endswith(continues)


@pytest.mark.slow
def test_a_question_in_its_chat_template_reads_as_in_training(
    reference: Reference, tokenizer
) -> None:
    chat = choose_format(reference.meta, bos_token="<s>", eos_token="</s>")
    assert chat is not None
    question = [{"role": "user", "content": "Tell me a story about a fox named Pip."}]
    ids = tokenizer.encode(chat.render(question).text, add_bos=False, parse_special=True)
    trained = "[INST] Tell me a story about a fox named Pip. [/INST]"
    assert ids == tokenizer.encode(trained)
    assert "Pip" in tokenizer.decode(greedy(reference, ids, 40)[len(ids) :])

"""Token ids meet the rows of the embeddings: at every surface, and when a file is opened."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gguf_hub.api.llama import Llama
from gguf_hub.errors import GgufError, TokenIdError, TokenizerError, UsageError
from gguf_hub.gguf.format import Field
from gguf_hub.gguf.reader import GgufFile
from gguf_hub.gguf.writer import write_gguf
from gguf_hub.run.generation.engine import Engine
from gguf_hub.run.model.settings import ModelSettings
from gguf_hub.run.model.token_ids import check_token_ids
from gguf_hub.run.model.transformer import Transformer
from gguf_hub.run.perplexity import ModelSource
from tests.synth import TINY, Shape, u32, vocabulary, write_mixtral

N_VOCAB = TINY.n_vocab
WRONG = [-(10**9), -1, N_VOCAB, N_VOCAB + 300, 10**9, 2**31, 2**63, 2**64, -(2**63) - 1]


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.data())
def test_the_first_wrong_id_is_named_with_its_position(ids: list[int], data: Any) -> None:
    positions = range(5, 5 + len(ids))
    check_token_ids(ids, positions, 10)
    at = data.draw(st.integers(0, len(ids) - 1))
    wrong = data.draw(st.integers(10) | st.integers(max_value=-1) | st.just(float("nan")))
    found = [*ids[:at], wrong, *ids[at + 1 :]]
    with pytest.raises(TokenIdError) as caught:
        check_token_ids(found, positions, 10)
    assert caught.value.message == f"token id {wrong} at position {5 + at}: expected [0, 9]"


# -- surfaces -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixtral(tmp_path_factory.mktemp("ids") / "tiny.gguf", TINY)


@pytest.fixture(scope="module")
def model(path: Path, kernels: None) -> Iterator[Transformer]:
    with GgufFile.open(path) as file:
        opened = Transformer.open(file, ModelSettings(n_ctx=32, n_slots=2, n_logits=None))
        with opened as found:
            yield found


@pytest.fixture(scope="module")
def llm(path: Path, kernels: None) -> Iterator[Llama]:
    with Llama(path, n_ctx=32, embedding=True, verbose=False) as found:
        yield found


SURFACES: dict[str, Callable[[Transformer, Llama, list[int]], Any]] = {
    "forward": lambda model, llm, ids: model.forward(ids, 0),
    "forward, all logits": lambda model, llm, ids: model.forward(ids, 0, all_logits=True),
    "embed": lambda model, llm, ids: model.embed(ids),
    "decode": lambda model, llm, ids: model.decode([(i, t, i) for i, t in enumerate(ids[-2:])]),
    "engine": lambda model, llm, ids: Engine(model).prefill(ids),
    "engine, extended": lambda model, llm, ids: Engine(model).extend(ids),
    "perplexity": lambda model, llm, ids: list(
        ModelSource(model, N_VOCAB, None).log_probs([*ids, *ids], [(len(ids), len(ids) + 1)])
    ),
    "Llama.eval": lambda model, llm, ids: (llm.reset(), llm.eval(ids)),
    "Llama.generate": lambda model, llm, ids: next(llm.generate(ids)),
    "Llama.create_completion": lambda model, llm, ids: llm.create_completion(ids, max_tokens=1),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("surface", SURFACES)
def test_every_surface_refuses_ids_that_the_model_does_not_have(
    surface: str, wrong: int, model: Transformer, llm: Llama
) -> None:
    for ids in ([wrong], [1, 5, wrong]):
        if surface == "decode" and len(ids) == 1:
            ids = [7, wrong]
        with pytest.raises(TokenIdError) as caught:
            SURFACES[surface](model, llm, ids)
        assert f"token id {wrong} at position " in caught.value.message
        assert caught.value.message.endswith(f": expected [0, {N_VOCAB - 1}]")


def test_the_last_token_is_computed(model: Transformer, llm: Llama) -> None:
    assert np.isfinite(model.forward([N_VOCAB - 1, 0], 0)).all()
    llm.reset()
    llm.eval([N_VOCAB - 1])
    assert llm.n_tokens == 1


def test_llama_does_not_write_the_text_of_ids_that_there_are_not(llm: Llama) -> None:
    for wrong in WRONG:
        with pytest.raises(TokenizerError, match=r"token id: expected \[0, 299\], found"):
            llm.detokenize([1, wrong])


def test_a_failed_prompt_leaves_a_model_that_goes_on(llm: Llama) -> None:
    first = llm.create_completion([1, 5], max_tokens=3, temperature=0)["choices"]
    with pytest.raises(TokenIdError):
        llm.eval([10**9])
    assert llm.create_completion([1, 5], max_tokens=3, temperature=0)["choices"] == first


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ({"position": -1}, "position -1: expected 0 or more"),
        ({"position": -(2**40)}, "expected 0 or more"),
        ({"position": 0, "slot": 2}, r"slot 2: expected \[0, 1\]"),
        ({"position": 0, "slot": -1}, r"slot -1: expected \[0, 1\]"),
    ],
    ids=str,
)
def test_places_outside_of_the_cache_are_refused(
    place: dict[str, int], message: str, model: Transformer
) -> None:
    with pytest.raises(UsageError, match=message):
        model.forward([1], **place)
    slot, position = place.get("slot", 0), place["position"]
    with pytest.raises(UsageError, match=message):
        model.decode([(1, 5, 0), (slot, 5, position)])


def test_no_tokens_are_refused(model: Transformer) -> None:
    for surface in ("forward", "embed", "engine", "engine, extended"):
        with pytest.raises(UsageError, match="expected at least one"):
            SURFACES[surface](model, None, [])  # type: ignore[arg-type]


def test_more_logits_than_there_is_room_for_are_refused(path: Path) -> None:
    message = "logits of 2 tokens: the model was opened for 1"
    with (
        GgufFile.open(path) as file,
        Transformer.open(file, ModelSettings(n_ctx=32)) as model,
        pytest.raises(UsageError, match=message),
    ):
        model.forward([1, 2], 0, all_logits=True)


def test_the_server_refuses_ids_that_the_model_does_not_have(path: Path, kernels: None) -> None:
    for package in ("fastapi", "uvicorn", "httpx"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    from tests.api.server.running import Running

    with ExitStack() as stack:
        http = Running(path, stack, {}, n_ctx=32, n_slots=2).http
        for wrong in (N_VOCAB, 10**9, 2**31, -1):
            for route, body in (
                ("/completion", {"prompt": [1, wrong], "n_predict": 1}),
                ("/v1/completions", {"prompt": [1, wrong], "max_tokens": 1}),
                ("/v1/completions", {"prompt": [[1], [wrong]], "max_tokens": 1}),
                ("/v1/embeddings", {"input": [wrong]}),
                ("/v1/embeddings", {"input": [[1], [wrong]]}),
                ("/detokenize", {"tokens": [wrong]}),
            ):
                reply = http.post(route, json=body)
                assert reply.status_code == 400, (route, body)
                assert "Error" not in reply.json()["error"]["message"]
        good = http.post("/completion", json={"prompt": [1, N_VOCAB - 1], "n_predict": 1})
        assert good.status_code == 200


# -- opening --------------------------------------------------------------------------------------


def with_vocabulary(path: Path, n_tokens: int, shape: Shape = TINY, **fields: Field) -> Path:
    """Write a model whose vocabulary and embeddings differ in number."""
    tokens, scores, types = vocabulary(n_tokens)
    named = {"tokens": Field.of(tokens), "scores": Field.of(scores), "token_type": Field.of(types)}
    prefixed = {f"tokenizer.ggml.{name}": field for name, field in {**named, **fields}.items()}
    return write_mixtral(path, shape, fields=prefixed)


def without_output(source: Path, target: Path) -> Path:
    """Write a model again whose embeddings are its output, too."""
    file = GgufFile.open(source)
    kept = [(info, file.tensor_bytes(name)) for name, info in file.tensors.items()
            if name != "output.weight"]  # fmt: skip
    write_gguf(target, file.fields, kept)
    return target


@pytest.mark.parametrize("is_tied", [False, True], ids=["output", "tied"])
@pytest.mark.parametrize("bos_id", [None, 1, N_VOCAB, 31_999])
def test_more_tokens_than_rows_are_refused(
    bos_id: int | None, is_tied: bool, tmp_path: Path, gguf_hub: Any
) -> None:
    fields = {} if bos_id is None else {"bos_token_id": u32(bos_id)}
    path = with_vocabulary(tmp_path / "more.gguf", 32_000, **fields)
    if is_tied:
        path = without_output(path, tmp_path / "tied.gguf")
    message = (
        "the vocabulary has 32,000 tokens, but tensor `token_embd.weight` has 300 rows: expected "
        "at least one for each token"
    )
    with GgufFile.open(path) as file, pytest.raises(GgufError, match=message):
        Transformer.open(file)
    with pytest.raises(GgufError, match=message):
        Llama(path, verbose=False)
    text = tmp_path / "text"
    text.write_text("word " * 100)
    for arguments in (
        ["run", path, "-p", "hi"],
        ["perplexity", path, "--text", text],
        ["bench", path],
        ["warmup", path],
        ["serve", path, "--port", "0"],
    ):
        code, out, err = gguf_hub(*arguments)
        assert (code, out) == (1, "")
        assert message in " ".join(err.split())


def test_an_output_with_fewer_rows_than_tokens_is_refused(tmp_path: Path) -> None:
    file = GgufFile.open(write_mixtral(tmp_path / "m.gguf", TINY))
    tensors = []
    for name, info in file.tensors.items():
        data = file.tensor_bytes(name)
        if name == "output.weight":
            info = type(info)(name, (64, 299), info.type, 0, 64 * 299 * 4)
            data = data[: info.size_bytes]
        tensors.append((info, data))
    write_gguf(tmp_path / "less.gguf", file.fields, tensors)
    message = "tensor `output.weight`.*299"
    with GgufFile.open(tmp_path / "less.gguf") as short, pytest.raises(GgufError, match=message):
        Transformer.open(short)


@pytest.mark.parametrize("is_tied", [False, True], ids=["output", "tied"])
def test_rows_beyond_the_vocabulary_are_not_used(is_tied: bool, tmp_path: Path) -> None:
    padded = with_vocabulary(tmp_path / "padded.gguf", 263)
    whole = write_mixtral(tmp_path / "whole.gguf", TINY)
    if is_tied:
        padded = without_output(padded, tmp_path / "padded-tied.gguf")
        whole = without_output(whole, tmp_path / "whole-tied.gguf")
    with (
        GgufFile.open(padded) as padded_file,
        Transformer.open(padded_file, ModelSettings(n_ctx=8)) as model,
        GgufFile.open(whole) as whole_file,
        Transformer.open(whole_file, ModelSettings(n_ctx=8)) as other,
    ):
        assert model.config.n_vocab == 263
        expected = other.forward([1, 262], 0)
        np.testing.assert_array_equal(model.forward([1, 262], 0), expected[:, :263])
        with pytest.raises(TokenIdError, match=r"token id 263 at position 1: expected \[0, 262\]"):
            model.forward([1, 263], 0)
    with Llama(padded, n_ctx=64, verbose=False) as llm:  # no token without a text comes out
        answer = llm.create_completion("hi", max_tokens=20, temperature=2.0, seed=1)
        assert answer["usage"]["completion_tokens"] > 0


def test_special_tokens_that_loaders_do_without_may_be_wrong(tmp_path: Path) -> None:
    ignored = {f"{name}_token_id": u32(10**6) for name in ("padding", "eot", "eom")}
    path = with_vocabulary(tmp_path / "m.gguf", N_VOCAB, **ignored)
    with Llama(path, n_ctx=16, verbose=False) as llm:
        assert llm.tokenizer_.vocab.pad_id is None
        assert llm.tokenizer_.eog_ids == {2}


@pytest.mark.parametrize("name", ["bos", "eos", "unknown"])
def test_special_tokens_that_are_no_tokens_are_the_usual_ones(name: str, tmp_path: Path) -> None:
    path = with_vocabulary(tmp_path / "m.gguf", N_VOCAB, **{f"{name}_token_id": u32(N_VOCAB)})
    with Llama(path, n_ctx=16, verbose=False) as llm:
        vocab = llm.tokenizer_.vocab
        assert (vocab.unk_id, vocab.bos_id, vocab.eos_id) == (0, 1, 2)

"""llama.cpp's C functions in Python, compared with the methods of ``Llama``."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gguf_hub.api.compat import llama_cpp as L
from gguf_hub.api.compat.llama_cpp import _internals as internals
from gguf_hub.gguf.format import Field
from gguf_hub.gguf.writer import write_gguf
from tests.rerankers import write_reranker
from tests.run.tokenizer.small import wordpiece_metadata

TEXT = "Once upon a time there was"


@pytest.fixture(scope="module", params=[False, True], ids=["last", "all"])
def llm(request: pytest.FixtureRequest, embedded: Path, kernels: None) -> Iterator[L.Llama]:
    """A model that keeps the logits of its last token, or of all."""
    with L.Llama(embedded, n_ctx=128, logits_all=request.param, verbose=False) as model:
        yield model


@pytest.fixture(scope="module")
def reference(embedded: Path, kernels: None) -> np.ndarray:
    """Logits after each token of ``TEXT``."""
    with L.Llama(embedded, n_ctx=128, logits_all=True, verbose=False) as model:
        model.eval(model.tokenize(TEXT.encode()))
        return np.array(model._scores)


@pytest.fixture
def tokens(llm: L.Llama) -> list[int]:
    return llm.tokenize(TEXT.encode())


def batch_of(tokens: list[int], start: int, wanted: set[int]) -> Any:
    batch = L.llama_batch_init(len(tokens), 0, 1)
    batch.n_tokens = len(tokens)
    for i, token in enumerate(tokens):
        batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, start + i, 1
        batch.seq_id[i][0] = 0
        batch.logits[i] = i in wanted
    return batch


def rows(llm: L.Llama, n: int) -> np.ndarray:
    found = L.llama_get_logits(llm.ctx)
    return np.ctypeslib.as_array(found, shape=(n, llm.n_vocab())).copy()


@pytest.mark.parametrize("wanted", [{0, 1, 2, 3, 4, 5}, {5}, {0, 3}, {2}])
def test_a_batch_has_the_logits_that_it_wants(
    llm: L.Llama, tokens: list[int], reference: np.ndarray, wanted: set[int]
) -> None:
    L.llama_memory_clear(L.llama_get_memory(llm.ctx), True)
    n = len(tokens)
    assert L.llama_decode(llm.ctx, batch_of(tokens, 0, wanted)) == 0
    assert llm.eval_tokens == tokens
    places = sorted(wanted & set(range(n)))
    np.testing.assert_allclose(rows(llm, len(places)), reference[places], atol=1e-4)
    last = L.llama_get_logits_ith(llm.ctx, -1)
    assert (
        np.ctypeslib.as_array(last, shape=(5,)).tolist() == rows(llm, len(places))[-1, :5].tolist()
    )
    missing = next(iter(set(range(n)) - wanted), None)
    assert missing is None or L.llama_get_logits_ith(llm.ctx, missing) is None


def test_a_cache_is_cut_and_gone_on_with(
    llm: L.Llama, tokens: list[int], reference: np.ndarray
) -> None:
    memory = L.llama_get_memory(llm.ctx)
    L.llama_memory_seq_rm(memory, -1, 0, -1)
    assert L.llama_decode(llm.ctx, L.llama_batch_get_one(tokens, 4)) == 0
    assert L.llama_memory_seq_pos_max(memory, 0) == 3
    assert not L.llama_memory_seq_rm(memory, 0, 1, 2)  # from the middle
    assert L.llama_memory_seq_rm(memory, 0, 2, -1)
    assert L.llama_memory_seq_pos_max(memory, 0) == 1
    assert L.llama_decode(llm.ctx, batch_of(tokens[2:5], 2, {2})) == 0
    np.testing.assert_allclose(rows(llm, 1), reference[[4]], atol=1e-4)


def test_batches_that_cannot_be(llm: L.Llama, tokens: list[int]) -> None:
    llm.reset()
    assert L.llama_decode(llm.ctx, batch_of(tokens, 7, {0})) == -1  # a gap before it
    assert L.llama_decode(llm.ctx, batch_of([], 0, set())) == -1
    assert L.llama_decode(llm.ctx, batch_of([1] * 129, 0, {0})) == 1
    assert L.llama_decode(llm.ctx, batch_of([llm.n_vocab()], 0, {0})) == -1
    other = batch_of(tokens, 0, {0})
    other.seq_id[1][0] = 1
    with pytest.raises(NotImplementedError, match="one sequence"):
        L.llama_decode(llm.ctx, other)
    with pytest.raises(NotImplementedError, match="embeddings"):
        L.llama_batch_init(4, 8, 1)


def test_texts_and_tokens(llm: L.Llama, tokens: list[int]) -> None:
    vocab = L.llama_model_get_vocab(llm.model)
    buffer, data = (ctypes.c_int32 * 32)(), TEXT.encode()
    assert L.llama_tokenize(vocab, data, len(data), buffer, 32, True, False) == len(tokens)
    assert buffer[: len(tokens)] == tokens
    assert L.llama_tokenize(vocab, data, len(data), buffer, 2, True, False) == -len(tokens)
    text = ctypes.create_string_buffer(64)
    for i, removes, expected in [
        (0, True, b" " + data), (0, False, b" " + data), (1, True, data), (1, False, data)
    ]:  # fmt: skip
        part = (ctypes.c_int32 * 32)(*tokens[i:])
        n = L.llama_detokenize(vocab, part, len(tokens) - i, text, 64, removes, False)
        assert text.raw[:n] == expected  # the blank after a begin token, as llama.cpp writes it
    piece = llm.tokenizer_.token_bytes(tokens[1])
    assert L.llama_token_to_piece(vocab, tokens[1], text, 1, 0, False) == -len(piece)
    n = L.llama_token_to_piece(vocab, ctypes.c_int32(tokens[1]), text, 64, 0, False)
    assert text.raw[:n] == piece
    n = L.llama_token_to_piece(vocab, tokens[1], text, 64, 1, False)
    assert text.raw[:n] == piece.removeprefix(b" ")
    assert L.llama_token_to_piece(vocab, llm.token_bos(), text, 64, 0, False) == 0


def test_native_code_can_tokenize(llm: L.Llama, tokens: list[int]) -> None:
    function, data = L.llama_cpp._lib.llama_tokenize, TEXT.encode()
    assert ctypes.cast(function, ctypes.c_void_p).value
    buffer = (ctypes.c_int32 * 32)()
    vocab = L.llama_model_get_vocab(llm.model)
    assert function(vocab, data, len(data), buffer, 32, True, False) == len(tokens)
    assert buffer[: len(tokens)] == tokens


def test_models_say_what_they_are(llm: L.Llama) -> None:
    model = llm._model
    vocab = L.llama_model_get_vocab(llm.model)
    assert L.llama_vocab_n_tokens(vocab) == model.n_vocab() == llm.n_vocab()
    assert (L.llama_vocab_bos(vocab), L.llama_vocab_eos(vocab)) == (model.token_bos(), 2)
    assert L.llama_token_get_attr(vocab, 1) & L.LLAMA_TOKEN_ATTR_CONTROL
    assert L.llama_vocab_is_eog(vocab, llm.token_eos())
    assert L.llama_model_n_embd(llm.model) == model.n_embd() == llm.n_embd()
    assert model.n_ctx_train() == L.llama_model_n_ctx_train(llm.model) == 512
    assert model.size() > 2 * model.n_params() > 1_000_000
    assert model.desc().startswith("llama ")
    assert model.metadata() == llm.metadata
    buffer = ctypes.create_string_buffer(64)
    count = L.llama_model_meta_count(llm.model)
    for i, (key, value) in islice(enumerate(llm.metadata.items()), count):
        L.llama_model_meta_key_by_index(llm.model, i, buffer, 64)
        assert buffer.value.decode() == key[:63]
        n = L.llama_model_meta_val_str_by_index(llm.model, i, buffer, 64)
        assert (n, buffer.value) == (len(value.encode()), value.encode()[:63])
    assert L.llama_model_meta_val_str(llm.model, b"no.such.key", buffer, 64) == -1
    assert (L.llama_n_ctx(llm.ctx), L.llama_n_batch(llm.ctx)) == (llm.n_ctx(), llm.n_batch)
    assert not L.llama_model_is_recurrent(llm.model) and not L.llama_model_is_hybrid(llm.model)
    for token in (-1, llm.n_vocab()):
        with pytest.raises(
            ValueError, match=rf"expected \[0, {llm.n_vocab() - 1}\], found {token}"
        ):
            L.llama_vocab_get_text(vocab, token)
    assert llm.context_params.n_ctx == 128
    assert (llm.draft_model, llm.numa, llm._n_vocab) == (None, False, llm.n_vocab())


def test_vocabularies_of_encoders_say_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "vocabulary.gguf"
    metadata = wordpiece_metadata("▁hello ▁,")
    metadata["tokenizer.ggml.token_type"] = np.array(metadata["tokenizer.ggml.token_type"], "i4")
    fields = {key: Field.of(value) for key, value in metadata.items()}
    write_gguf(path, {"general.architecture": Field.of("bert"), **fields}, [])
    params = L.llama_model_default_params()
    params.vocab_only = True
    model = L.llama_model_load_from_file(str(path).encode(), params)
    vocab = L.llama_model_get_vocab(model)
    assert L.llama_vocab_type(vocab) == L.LLAMA_VOCAB_TYPE_WPM
    assert L.llama_vocab_sep(vocab) == 2
    buffer = (ctypes.c_int32 * 8)()
    n = L.llama_tokenize(vocab, b"Hello,", 6, buffer, 8, True, False)
    assert buffer[:n] == [1, 3, 4, 2]
    L.llama_model_free(model)


def test_every_number_of_a_model_is_a_number(llm: L.Llama) -> None:
    names = [name for name in dir(L) if name.startswith("llama_model_n_")]
    assert len(names) == 10
    assert all(getattr(L, name)(llm.model) >= 0 for name in names)
    assert L.llama_model_n_swa(llm.model) == 0


def test_a_handle_leads_nowhere_once_its_owner_is_gone(embedded: Path) -> None:
    llm = L.Llama(embedded, vocab_only=True, verbose=False)
    model, ctx = llm.model, llm.ctx
    assert L.llama_model_n_embd(model) > 0 and ctx is not None
    del llm
    gc.collect()
    for handle in (model, ctx, 0, None, 12345):
        with pytest.raises(ValueError, match="no open ModelFile has the handle"):
            L.llama_model_n_embd(handle)


def test_files_are_opened_and_closed_by_functions(embedded: Path, kernels: None) -> None:
    model = L.llama_model_load_from_file(str(embedded).encode(), L.llama_model_default_params())
    params = L.llama_context_default_params()
    params.n_ctx = 32
    ctx = L.llama_init_from_model(model, params)
    gc.collect()
    assert L.llama_n_ctx(ctx) == 32
    assert L.llama_get_model(ctx) == model
    assert L.llama_decode(ctx, L.llama_batch_get_one([1, 2], 2)) == 0
    L.llama_free(ctx)
    L.llama_model_free(model)
    with pytest.raises(ValueError, match="no open Context"):
        L.llama_n_ctx(ctx)


def chain(*steps: tuple[str, tuple[Any, ...]]) -> internals.LlamaSampler:
    sampler = internals.LlamaSampler()
    for name, arguments in steps:
        getattr(sampler, name)(*arguments)
    return sampler


def test_internals_generate_what_the_class_does(embedded: Path, kernels: None) -> None:
    params = L.llama_model_default_params()
    model = internals.LlamaModel(path_model=str(embedded), params=params)
    cparams = L.llama_context_default_params()
    cparams.n_ctx = 64
    context = internals.LlamaContext(model=model, params=cparams)
    tokens = model.tokenize(TEXT.encode(), add_bos=True, special=True)
    batch = internals.LlamaBatch(n_tokens=32, embd=0, n_seq_max=1)
    sampler = chain(("add_top_k", (50,)), ("add_top_p", (0.9, 1)), ("add_temp", (0.8,)),
                    ("add_dist", (7,)))  # fmt: skip
    found: list[int] = []
    for _ in range(8):
        new = found[-1:] or tokens
        batch.set_batch(new, n_past=len(tokens) + len(found) - 1 if found else 0, logits_all=False)
        context.decode(batch)
        found.append(sampler.sample(context, -1))
    with L.Llama(embedded, n_ctx=64, seed=7, verbose=False) as llm:
        options: Any = {"top_k": 50, "top_p": 0.9, "min_p": 0.0, "temp": 0.8}
        assert found == list(islice(llm.generate(tokens, **options), 8))
    assert model.detokenize(found, special=True)
    model.close()
    assert context.ctx is None


def test_a_chain_must_choose(llm: L.Llama, tokens: list[int]) -> None:
    llm.reset()
    L.llama_decode(llm.ctx, L.llama_batch_get_one(tokens, len(tokens)))
    with pytest.raises(ValueError, match="ends without choosing"):
        chain(("add_top_k", (5,))).sample(llm._ctx)
    greedy = chain(("add_greedy", ()))
    assert greedy.sample(llm._ctx) == int(np.argmax(rows(llm, 1)))
    with pytest.raises(ValueError, match="has no logits"):
        greedy.sample(llm._ctx, 0)
    grammar = L.LlamaGrammar.from_string('root ::= "7"')
    forced = chain(("add_grammar", (llm._model, grammar)), ("add_greedy", ()))
    assert llm.detokenize([forced.sample(llm._ctx)]).strip() == b"7"
    with pytest.raises(NotImplementedError, match="arrays"):
        forced.add_custom(print)


def test_methods_that_are_not_there_say_why(llm: L.Llama) -> None:
    for name in ("set_n_threads", "get_state_size", "kv_cache_seq_cp", "kv_cache_seq_keep",
                 "kv_cache_seq_shift", "set_rng_seed"):  # fmt: skip
        assert not hasattr(llm._ctx, name)
        with pytest.raises(AttributeError, match=f"no attribute '{name}': .* "):
            getattr(llm._ctx, name)
    with pytest.raises(AttributeError, match="no attribute 'clone': make another"):
        internals.LlamaSampler().clone()
    with pytest.raises(AttributeError, match=r"no attribute 'x'$"):
        internals.LlamaSampler().x()


# -- embeddings ------------------------------------------------------------------------------------


def embedder(path: Path, pooling: int) -> L.Llama:
    return L.Llama(path, n_ctx=64, embedding=True, pooling_type=pooling, verbose=False)


def numbers(pointer: Any, n: int) -> list[float]:
    found: list[float] = np.ctypeslib.as_array(pointer, shape=(n,)).tolist()
    return found


def test_a_batch_has_the_vectors_of_its_tokens(
    embedded: Path, kernels: None, reference: np.ndarray
) -> None:
    with embedder(embedded, 0) as llm:
        expected, n_embd = np.array(llm.embed(TEXT)), llm.n_embd()
        assert L.llama_model_n_embd_out(llm.model) == n_embd
        assert L.llama_get_embeddings(llm.ctx) is None  # no batch yet
        tokens = llm.tokenize(TEXT.encode())
        assert L.llama_decode(llm.ctx, batch_of(tokens[:4], 0, {3})) == 0
        assert L.llama_decode(llm.ctx, batch_of(tokens[4:], 4, set())) == 0
        n = len(tokens) - 4
        found = np.ctypeslib.as_array(L.llama_get_embeddings(llm.ctx), shape=(n, n_embd))
        np.testing.assert_allclose(found, expected[4:], atol=1e-5)
        for i in (0, n - 1, -1, -n):
            row = numbers(L.llama_get_embeddings_ith(llm.ctx, i), n_embd)
            np.testing.assert_allclose(row, expected[4:][i], atol=1e-5)
        assert L.llama_get_embeddings_ith(llm.ctx, n) is None
        assert L.llama_get_embeddings_seq(llm.ctx, 0) is None  # nothing is pooled
        assert llm.eval_tokens == tokens
        L.llama_memory_seq_rm(L.llama_get_memory(llm.ctx), 0, 2, -1)
        np.testing.assert_allclose(rows(llm, n), reference[4 : 4 + n], atol=1e-4)
        assert llm.eval_tokens == tokens[:2]  # computing put off logits changes no cache
        assert L.llama_decode(llm.ctx, batch_of(tokens[2:], 2, set())) == 0
        last = numbers(L.llama_get_embeddings_ith(llm.ctx, -1), n_embd)
        np.testing.assert_allclose(last, expected[-1], atol=1e-5)


@pytest.mark.parametrize("pooling", [1, 2, 3])
def test_a_sequence_has_a_pooled_vector(pooling: int, embedded: Path, kernels: None) -> None:
    with embedder(embedded, pooling) as llm:
        tokens = llm.tokenize(TEXT.encode())
        assert L.llama_decode(llm.ctx, L.llama_batch_get_one(tokens, len(tokens))) == 0
        found = numbers(llm._ctx.get_embeddings_seq(0), llm.n_embd())
        assert llm._ctx.get_embeddings_seq(1) is None
        assert llm._ctx.get_embeddings() is llm._ctx.get_embeddings_ith(0) is None
        np.testing.assert_allclose(found, llm.embed(TEXT), atol=1e-5)


def test_a_reranker_has_named_scores(tmp_path: Path, kernels: None) -> None:
    path = write_reranker(tmp_path / "a.gguf")
    with L.Llama(str(path), n_ctx=64, embedding=True, verbose=False) as llm:
        assert L.llama_pooling_type(llm.ctx) == L.LLAMA_POOLING_TYPE_RANK
        assert L.llama_model_n_cls_out(llm.model) == 2
        labels = [L.llama_model_cls_label(llm.model, i) for i in range(3)]
        assert labels == [b"yes", b"no", None]
        tokens = llm.tokenize(b"ab")
        assert L.llama_decode(llm.ctx, L.llama_batch_get_one(tokens, len(tokens))) == 0
        found = numbers(L.llama_get_embeddings_seq(llm.ctx, 0), 2)
        assert found == pytest.approx(llm.embed("ab"))


def test_embeddings_are_turned_off_and_on(embedded: Path, kernels: None, llm: L.Llama) -> None:
    with pytest.raises(NotImplementedError, match="opened without embeddings"):
        L.llama_set_embeddings(llm.ctx, True)
    L.llama_set_embeddings(llm.ctx, False)
    with embedder(embedded, 0) as other:
        tokens = other.tokenize(TEXT.encode())
        L.llama_set_embeddings(other.ctx, False)
        L.llama_decode(other.ctx, L.llama_batch_get_one(tokens, len(tokens)))
        assert L.llama_get_embeddings(other.ctx) is None
        assert L.llama_get_logits_ith(other.ctx, 0) is None
        L.llama_set_embeddings(other.ctx, True)
        L.llama_memory_clear(L.llama_get_memory(other.ctx), True)
        L.llama_decode(other.ctx, L.llama_batch_get_one(tokens, len(tokens)))
        assert L.llama_get_embeddings(other.ctx) is not None

"""llama.cpp's functions about models and vocabularies.

Buffers are what ``ctypes`` has for ``char *``; a text that does not fit gives minus its length, or
is cut, as there. Source: include/llama.h of llama.cpp as bundled with llama-cpp-python 0.3.36.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NewType

from gguf_hub.api.compat.llama_cpp import constants as c
from gguf_hub.api.compat.llama_cpp.handles import find, handle_of, number, release
from gguf_hub.api.compat.llama_cpp.opened import ModelFile, Vocabulary
from gguf_hub.api.llama.parts import LlamaValueError
from gguf_hub.gguf.hparams import CacheHyperParameters
from gguf_hub.gguf.vocabulary import SPM, UGM, WPM, TokenType

llama_model_p = NewType("llama_model_p", int)
llama_vocab_p = NewType("llama_vocab_p", int)
llama_model_p_ctypes = llama_vocab_p_ctypes = ctypes.c_void_p
llama_token = ctypes.c_int32
llama_token_p = ctypes.POINTER(ctypes.c_int32)

_ATTRIBUTES = {
    TokenType.UNKNOWN: c.LLAMA_TOKEN_ATTR_UNKNOWN, TokenType.UNUSED: c.LLAMA_TOKEN_ATTR_UNUSED,
    TokenType.NORMAL: c.LLAMA_TOKEN_ATTR_NORMAL, TokenType.CONTROL: c.LLAMA_TOKEN_ATTR_CONTROL,
    TokenType.USER_DEFINED: c.LLAMA_TOKEN_ATTR_USER_DEFINED,
    TokenType.BYTE: c.LLAMA_TOKEN_ATTR_BYTE,
}  # fmt: skip

_KINDS = {
    SPM: c.LLAMA_VOCAB_TYPE_SPM, WPM: c.LLAMA_VOCAB_TYPE_WPM, UGM: c.LLAMA_VOCAB_TYPE_UGM,
}  # fmt: skip


@dataclass
class llama_model_params:
    """How to open a model; what has no meaning here is kept and ignored."""

    n_gpu_layers: int = 0
    split_mode: int = c.LLAMA_SPLIT_MODE_LAYER
    load_mode: int = c.LLAMA_LOAD_MODE_AUTO
    lazy_mode: int = c.LLAMA_LAZY_MODE_AUTO
    main_gpu: int = 0
    tensor_split: Any = None
    kv_overrides: Any = None
    vocab_only: bool = False
    check_tensors: bool = False
    use_extra_bufts: bool = True


def llama_model_default_params() -> llama_model_params:
    """Return the default parameters."""
    return llama_model_params()


def llama_model_load_from_file(
    path_model: bytes, params: llama_model_params, /
) -> llama_model_p | None:
    """Open a file; free it with ``llama_model_free``.

    Raises:
        GgufHubError: It is no GGUF file with a vocabulary.
    """
    path = Path(path_model.decode("utf-8", "surrogateescape"))
    file = ModelFile.open(path, is_vocab_only=params.vocab_only)
    return llama_model_p(handle_of(file, is_owned=True))


def llama_model_free(model: llama_model_p, /) -> None:
    """Forget a file."""
    release(model)


def llama_model_get_vocab(model: llama_model_p, /) -> llama_vocab_p | None:
    """Return the vocabulary of a model."""
    return llama_vocab_p(handle_of(find(ModelFile, model).vocabulary))


# -- models --------------------------------------------------------------------------------------


def llama_model_n_ctx_train(model: llama_model_p, /) -> int:
    """Return how many positions it was trained on."""
    return find(ModelFile, model).hparams.n_ctx_train


def llama_model_n_embd(model: llama_model_p, /) -> int:
    """Return the embedding width."""
    return find(ModelFile, model).hparams.n_embd


llama_model_n_embd_inp = llama_model_n_embd_out = llama_model_n_embd


def llama_model_n_cls_out(model: llama_model_p, /) -> int:
    """Return how many scores a reranker has for a text."""
    return find(ModelFile, model).hparams.of_graph().n_cls_out


def llama_model_cls_label(model: llama_model_p, i: Any, /) -> bytes | None:
    """Return the name of a score; None without one."""
    labels, at = find(ModelFile, model).hparams.of_graph().classifier_labels, number(i)
    return labels[at].encode() if 0 <= at < len(labels) else None


def llama_model_n_layer(model: llama_model_p, /) -> int:
    """Return the number of layers."""
    return find(ModelFile, model).hparams.n_layer


def llama_model_n_head(model: llama_model_p, /) -> int:
    """Return the number of attention heads."""
    return find(ModelFile, model).hparams.n_head


def llama_model_n_head_kv(model: llama_model_p, /) -> int:
    """Return the number of key/value heads."""
    return find(ModelFile, model).hparams.n_head_kv


def llama_model_n_swa(model: llama_model_p, /) -> int:
    """Return the width of the attention window; 0 for none."""
    return find(ModelFile, model).hparams.get(CacheHyperParameters.n_swa)


def llama_model_rope_freq_scale_train(model: llama_model_p, /) -> float:
    """Return by what positions are multiplied."""
    factor = find(ModelFile, model).hparams.rope_factor
    return 1 / factor if factor else 1.0


def llama_model_n_params(model: llama_model_p, /) -> int:
    """Return the number of weights."""
    return find(ModelFile, model).size[0]


def llama_model_size(model: llama_model_p, /) -> int:
    """Return the bytes of all tensors."""
    return find(ModelFile, model).size[1]


def llama_model_desc(model: llama_model_p, buf: Any, buf_size: int, /) -> int:
    """Write a line about the model: its architecture and its number of weights."""
    n_params = llama_model_n_params(model) / 1e9
    return _write_text(f"{_arch(model)} {n_params:.2f}B".encode(), buf, buf_size)


def llama_model_meta_count(model: llama_model_p, /) -> int:
    """Return the number of keys of the metadata, without arrays."""
    return len(find(ModelFile, model).metadata)


def llama_model_meta_key_by_index(model: llama_model_p, i: int, buf: Any, buf_size: int, /) -> int:
    """Write a key's name; -1 where there is none."""
    keys = list(find(ModelFile, model).metadata)
    return _write_text(keys[i].encode(), buf, buf_size) if 0 <= i < len(keys) else -1


def llama_model_meta_val_str_by_index(
    model: llama_model_p, i: int, buf: Any, buf_size: int, /
) -> int:
    """Write the value of a key; -1 where there is none."""
    values = list(find(ModelFile, model).metadata.values())
    return _write_text(values[i].encode(), buf, buf_size) if 0 <= i < len(values) else -1


def llama_model_meta_val_str(model: llama_model_p, key: bytes, buf: Any, buf_size: int, /) -> int:
    """Write the value of a key by its name; -1 where there is none."""
    value = find(ModelFile, model).metadata.get(key.decode())
    return -1 if value is None else _write_text(value.encode(), buf, buf_size)


def llama_model_chat_template(model: llama_model_p, name: bytes | None, /) -> bytes | None:
    """Return the chat template, the default one or one by name; None where there is none."""
    key = "tokenizer.chat_template" + (f".{name.decode()}" if name else "")
    template = find(ModelFile, model).metadata.get(key)
    return None if template is None else template.encode()


def llama_model_is_recurrent(model: llama_model_p, /) -> bool:
    """Return whether no layer has attention: no such model runs here."""
    find(ModelFile, model)
    return False


def llama_model_is_hybrid(model: llama_model_p, /) -> bool:
    """Return whether some layers carry a state and others have attention."""
    return find(ModelFile, model).has_states


def llama_model_has_encoder(model: llama_model_p, /) -> bool:
    """Return whether there is an encoder: no such model runs here."""
    find(ModelFile, model)
    return False


def llama_model_has_decoder(model: llama_model_p, /) -> bool:
    """Return whether there is a decoder."""
    find(ModelFile, model)
    return True


def _arch(model: llama_model_p) -> str:
    return find(ModelFile, model).architecture


# -- vocabularies --------------------------------------------------------------------------------


def _vocab(vocab: Any) -> Any:
    return find(Vocabulary, vocab).vocab


def _id(vocab: Any, token: Any) -> int:
    """Return a token's id.

    Raises:
        LlamaValueError: The vocabulary has no such token.
    """
    token_id, n_tokens = number(token), len(_vocab(vocab))
    if not 0 <= token_id < n_tokens:
        raise LlamaValueError(f"token id: expected [0, {n_tokens - 1}], found {token_id}")
    return token_id


def _or_none(token_id: int | None) -> int:
    return c.LLAMA_TOKEN_NULL if token_id is None else token_id


def llama_vocab_n_tokens(vocab: llama_vocab_p, /) -> int:
    """Return the number of tokens."""
    return len(_vocab(vocab))


def llama_vocab_type(vocab: llama_vocab_p, /) -> int:
    """Return the kind of the vocabulary: ``LLAMA_VOCAB_TYPE_SPM`` or another of these."""
    return _KINDS.get(_vocab(vocab).model, c.LLAMA_VOCAB_TYPE_BPE)


def llama_vocab_get_text(vocab: llama_vocab_p, token: Any, /) -> bytes:
    """Return the text of a token, as the file has it."""
    text: str = _vocab(vocab).tokens[_id(vocab, token)]
    return text.encode("utf-8", "replace")


def llama_vocab_get_score(vocab: llama_vocab_p, token: Any, /) -> float:
    """Return the score of a token; 0 where the vocabulary has none."""
    scores = _vocab(vocab).scores
    return float(scores[_id(vocab, token)]) if len(scores) else 0.0


def llama_vocab_get_attr(vocab: llama_vocab_p, token: Any, /) -> int:
    """Return what a token is: ``LLAMA_TOKEN_ATTR_…``."""
    return _ATTRIBUTES[TokenType(_vocab(vocab).types[_id(vocab, token)])]


def llama_vocab_is_eog(vocab: llama_vocab_p, token: Any, /) -> bool:
    """Return whether a token ends a generation."""
    return number(token) in _vocab(vocab).eog_ids


def llama_vocab_is_control(vocab: llama_vocab_p, token: Any, /) -> bool:
    """Return whether a token steers the model and prints nothing."""
    return bool(_vocab(vocab).types[_id(vocab, token)] == TokenType.CONTROL)


def llama_vocab_bos(vocab: llama_vocab_p, /) -> int:
    """Return the token that begins a text; -1 for none, as for the others."""
    return _or_none(_vocab(vocab).bos_id)


def llama_vocab_eos(vocab: llama_vocab_p, /) -> int:
    """Return the token that ends a text."""
    return _or_none(_vocab(vocab).eos_id)


def llama_vocab_eot(vocab: llama_vocab_p, /) -> int:
    """Return the token that ends a turn, where it is another than that of a text."""
    found = _vocab(vocab)
    others = sorted(found.eog_ids - {found.eos_id})
    return others[0] if others else c.LLAMA_TOKEN_NULL


def llama_vocab_pad(vocab: llama_vocab_p, /) -> int:
    """Return the token of padding."""
    return _or_none(_vocab(vocab).pad_id)


def llama_vocab_sep(vocab: llama_vocab_p, /) -> int:
    """Return the token between the two texts of a pair."""
    return _or_none(_vocab(vocab).sep_id)


def llama_vocab_nl(vocab: llama_vocab_p, /) -> int:
    """Return the token of a line break."""
    ids = find(Vocabulary, vocab).tokenizer.encode("\n", add_bos=False)
    return ids[-1] if ids else c.LLAMA_TOKEN_NULL


def llama_vocab_fim_pre(vocab: llama_vocab_p, /) -> int:
    """Return what stands before the text in front of a gap."""
    return _infill(vocab, 0)


def llama_vocab_fim_suf(vocab: llama_vocab_p, /) -> int:
    """Return what stands before the text behind a gap."""
    return _infill(vocab, 1)


def llama_vocab_fim_mid(vocab: llama_vocab_p, /) -> int:
    """Return what stands before the text in a gap."""
    return _infill(vocab, 2)


def _infill(vocab: llama_vocab_p, i: int) -> int:
    ids = _vocab(vocab).infill_ids
    return ids[i] if ids else c.LLAMA_TOKEN_NULL


def llama_vocab_get_add_bos(vocab: llama_vocab_p, /) -> bool:
    """Return whether texts begin with a token."""
    return bool(_vocab(vocab).add_bos)


def llama_vocab_get_add_eos(vocab: llama_vocab_p, /) -> bool:
    """Return whether texts end with a token."""
    return bool(_vocab(vocab).add_eos)


# older names
llama_n_vocab, llama_vocab_cls = llama_vocab_n_tokens, llama_vocab_bos
llama_n_ctx_train, llama_n_embd = llama_model_n_ctx_train, llama_model_n_embd
llama_n_layer, llama_n_head = llama_model_n_layer, llama_model_n_head
llama_token_get_text, llama_token_get_score = llama_vocab_get_text, llama_vocab_get_score
llama_token_get_attr, llama_token_is_eog = llama_vocab_get_attr, llama_vocab_is_eog
llama_token_is_control, llama_token_bos = llama_vocab_is_control, llama_vocab_bos
llama_token_cls, llama_token_eos, llama_token_eot = (
    llama_vocab_bos,
    llama_vocab_eos,
    llama_vocab_eot,
)
llama_token_sep, llama_token_nl, llama_token_pad = llama_vocab_sep, llama_vocab_nl, llama_vocab_pad
llama_token_fim_pre, llama_token_fim_suf = llama_vocab_fim_pre, llama_vocab_fim_suf
llama_token_fim_mid = llama_vocab_fim_mid
llama_add_bos_token, llama_add_eos_token = llama_vocab_get_add_bos, llama_vocab_get_add_eos
llama_free_model, llama_load_model_from_file = llama_model_free, llama_model_load_from_file


# -- text and tokens -----------------------------------------------------------------------------


def llama_tokenize(
    vocab: llama_vocab_p,
    text: bytes,
    text_len: int,
    tokens: Any,
    n_tokens_max: int,
    add_special: bool,
    parse_special: bool,
    /,
) -> int:
    """Write the token ids of a text; return how many, or minus that where they do not fit."""
    given = text[: number(text_len)].decode("utf-8", "replace")
    tokenizer = find(Vocabulary, vocab).tokenizer
    ids = tokenizer.encode(given, add_bos=bool(add_special), parse_special=bool(parse_special))
    if len(ids) > number(n_tokens_max):
        return -len(ids)
    for i, token_id in enumerate(ids):
        tokens[i] = token_id
    return len(ids)


def llama_token_to_piece(
    vocab: llama_vocab_p, token: Any, buf: Any, length: int, lstrip: int, special: bool, /
) -> int:
    """Write the bytes of a token; return how many, or minus that where they do not fit.

    Args:
        vocab: The vocabulary.
        token: The token.
        buf: Where to write.
        length: Its size in bytes.
        lstrip: Most blanks to leave out at the beginning.
        special: Whether control tokens have a text.
    """
    data = find(Vocabulary, vocab).tokenizer.token_bytes(number(token), bool(special))
    n_blanks = min(number(lstrip), len(data) - len(data.lstrip(b" ")))
    return _write(data[n_blanks:], buf, number(length))


def llama_detokenize(
    vocab: llama_vocab_p,
    tokens: Any,
    n_tokens: int,
    text: Any,
    text_len_max: int,
    remove_special: bool,
    unparse_special: bool,
    /,
) -> int:
    """Write the text of tokens; return its bytes, or minus that where they do not fit."""
    tokenizer, ids = find(Vocabulary, vocab).tokenizer, [tokens[i] for i in range(number(n_tokens))]
    first = ids[:1]
    if remove_special:  # what encoding would have put there
        ids = list(_without_ends(ids, tokenizer.begin_id, tokenizer.end_id))
    pieces = [tokenizer.token_bytes(i, bool(unparse_special)) for i in ids]
    if ids[:1] == first and pieces:  # a blank after a begin token is kept, as in llama.cpp
        pieces[0] = tokenizer.strip_prefix(pieces[0])
    return _write(b"".join(pieces), text, number(text_len_max))


def _without_ends(ids: list[int], bos: int | None, eos: int | None) -> Iterator[int]:
    for i, token_id in enumerate(ids):
        is_first, is_last = i == 0 and token_id == bos, i == len(ids) - 1 and token_id == eos
        if not is_first and not is_last:
            yield token_id


def _write(data: bytes, buf: Any, size: int) -> int:
    if len(data) > size:
        return -len(data)
    ctypes.memmove(buf, data, len(data))
    return len(data)


def _write_text(data: bytes, buf: Any, size: int) -> int:
    """Write a text that a zero ends, as much of it as fits; return its whole length."""
    size = number(size)
    if size > 0:
        part = data[: size - 1] + b"\0"
        ctypes.memmove(buf, part, len(part))
    return len(data)

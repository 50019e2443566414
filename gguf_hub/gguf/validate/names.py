"""Rules for keys, texts and names: what the format asks of them, whatever they mean."""

from __future__ import annotations

import re

from gguf_hub.gguf.format import MAX_KEY_BYTES, MAX_NAME_BYTES, Field, ValueType
from gguf_hub.gguf.header import Header
from gguf_hub.gguf.hparams import architecture
from gguf_hub.gguf.issues import Issues
from gguf_hub.gguf.strings import encode, is_utf8, shown

_KEY = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)*")
_USUAL_ALIGNMENT = range(8, (1 << 20) + 1)


def check_names(header: Header, issues: Issues) -> None:
    """Check keys, single texts, tensor names and the alignment."""
    arch = architecture(header.fields)
    for key, field in header.fields.items():
        _check_key(key, field, arch, issues)
        if field.type is ValueType.STRING:
            _check_text(key, field, issues)
    for entry in header.entries:
        _check_tensor_name(entry.name, entry.at, issues)
    if header.alignment not in _USUAL_ALIGNMENT:
        message = f"an alignment of {header.alignment:,}; 32 is usual"
        issues.add("GGUF-ALIGNMENT-UNUSUAL", "key `general.alignment`", message)


def _check_key(key: str, field: Field, arch: str, issues: Issues) -> None:
    location = f"key `{shown(key)}`"
    if not is_utf8(key):
        issues.add("GGUF-KEY-UTF8", location, "the key is not UTF-8", field.offset)
        return
    if len(encode(key)) > MAX_KEY_BYTES:
        issues.add("GGUF-KEY-LENGTH", location, f"{len(encode(key)):,} bytes long", field.offset)
    # names of architectures may hold a hyphen (`gpt-oss`), and keys then begin with it
    bare = key[len(arch) + 1 :] if arch and key.startswith(f"{arch}.") else key
    if key and not _KEY.fullmatch(bare):
        issues.add("GGUF-KEY-NAME", location, "is not lower_snake_case with dots", field.offset)


def _check_text(key: str, field: Field, issues: Issues) -> None:
    location = f"key `{shown(key)}`"
    if not is_utf8(field.value):
        issues.add("GGUF-STRING-UTF8", location, "the text is not UTF-8", field.offset)
    if "\0" in field.value:
        message = f"a NUL after {field.value.index(chr(0)):,} characters"
        issues.add("GGUF-STRING-NUL", location, message, field.offset)


def _check_tensor_name(name: str, at: int, issues: Issues) -> None:
    location = f"tensor `{shown(name)}`"
    size_bytes = len(encode(name))
    if not name:
        issues.add("GGUF-TENSOR-NAME-EMPTY", f"offset {at}", "a tensor without a name", at)
    if size_bytes > MAX_NAME_BYTES:
        message = f"a name of {size_bytes:,} bytes, at most {MAX_NAME_BYTES}"
        issues.add("GGUF-TENSOR-NAME-LENGTH", location, message, at)
    if not is_utf8(name):
        issues.add("GGUF-TENSOR-NAME-UTF8", location, "the name is not UTF-8", at)
    if "\0" in name:
        message = f"C programs read it as `{shown(name[: name.index(chr(0))])}`"
        issues.add("GGUF-TENSOR-NAME-NUL", location, message, at)

"""What a file is that is not a GGUF: the usual accidents have names.

Knows the first bytes of other formats.
"""

from __future__ import annotations

_OTHERS = (
    (b"ggml", "a GGML file of 2023, older than GGUF"),
    (b"lmgg", "a GGML file of 2023, older than GGUF"),
    (b"tjgg", "a GGJT file of 2023, older than GGUF"),
    (b"fmgg", "a GGMF file of 2023, older than GGUF"),
    (b"algg", "a GGML adapter of 2023, older than GGUF"),
    (b"FUGG", "the magic is written backwards: `FUGG`"),
    (b"PK\x03\x04", "a zip archive, perhaps a PyTorch checkpoint"),
    (b"\x80\x02", "a Python pickle, perhaps a PyTorch checkpoint"),
    (b"\x1f\x8b", "a gzip archive"),
    (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    (b"\xfd7zXZ", "an xz archive"),
    (b"\x89HDF", "an HDF5 file"),
    (b"aria2", "a control file of aria2"),
)


def sniff(start: bytes) -> tuple[str, str]:
    """Name a file that is not a GGUF.

    Args:
        start: Its first bytes, up to 512; not those of a GGUF.

    Returns:
        The code of the problem and what the file is, in words.
    """
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "GGUF-FILE-EMPTY", "the file is empty"
    if text.startswith((b"<!doctype", b"<html", b"<head")):
        return "GGUF-FILE-HTML", "a web page, not a model"
    if start.startswith(b"version https://git-lfs"):
        return "GGUF-FILE-LFS-POINTER", f"a git-lfs pointer{_lfs_size(start)}, not the model itself"
    if not start.strip(b"\0"):
        return "GGUF-FILE-ZEROS", "zeros only: the start was never written"
    if _is_old_imatrix(start):
        return "GGUF-FILE-IMATRIX", "an importance matrix of the format before GGUF, not a model"
    return "GGUF-MAGIC", _other(start, text)


def _lfs_size(start: bytes) -> str:
    """Size of the file that a pointer stands for, in words."""
    for line in start.splitlines():
        if line.startswith(b"size ") and line[5:].isdigit():
            return f" to {int(line[5:]):,} bytes"
    return ""


def _is_old_imatrix(start: bytes) -> bool:
    """Tell whether a count of entries, the length of a name and a tensor's name come first.

    Source: save_imatrix in tools/imatrix/imatrix.cpp of llama.cpp, before GGUF.
    """
    n_bytes = int.from_bytes(start[4:8], "little")
    name = start[8 : 8 + n_bytes]
    return n_bytes <= 64 and name.endswith(b".weight") and start[2:4] == b"\0\0"


def _other(start: bytes, text: bytes) -> str:
    for magic, what in _OTHERS:
        if start.startswith(magic):
            return what
    if len(start) < 4:
        return f"only {len(start)} bytes, too short for a GGUF"
    if start[8:9] == b"{" and b'"dtype"' in start:
        return "a safetensors file"
    if text.startswith((b"{", b"[")):
        return "JSON, perhaps an error message of a server"
    if text.startswith((b"<?xml", b"<")):
        return "XML, perhaps an error message of a server"
    return f"starts with {start[:4]!r}, expected b'GGUF'"

"""How much memory a program can take: what the host has free, within the container's limit."""

from __future__ import annotations

from pathlib import Path

from gguf_hub.resources.cgroup import MemoryLimit, memory_limit


def available_ram_bytes(root: Path = Path("/")) -> int | None:
    """Return what a program can take of memory now, page cache included; None if nobody tells.

    Args:
        root: The root of the file system, for what Linux tells in files (another one in tests).
    """
    return available_bytes(host_memory([])[1], memory_limit(root))


def available_bytes(host_free_bytes: int | None, limit: MemoryLimit | None) -> int | None:
    """Return the smaller of what the host has free and what the container has left."""
    known = [host_free_bytes, limit.available_bytes if limit else None]
    return min((each for each in known if each is not None), default=None)


def host_memory(notes: list[str]) -> tuple[int | None, int | None]:
    """Return (total, available) as the host sees them; why not is appended to ``notes``."""
    import psutil

    try:
        memory = psutil.virtual_memory()
    except Exception as error:  # a locked-down /proc fails in ways that differ by system
        notes.append(f"the memory of this machine cannot be read: {error}")
        return None, None
    return memory.total, memory.available

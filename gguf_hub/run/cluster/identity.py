"""What both ends must have alike: the program, and the file (``gguf.identity``).

Logits are the same to the bit on every machine only where the same code computes with the same
bytes.
"""

from __future__ import annotations

from gguf_hub import __version__
from gguf_hub.errors import ClusterError
from gguf_hub.run.kernels.build.build import hash_of_sources


def program_id() -> str:
    """Return the version, and a hash of the sources that decide about bits."""
    return f"{__version__} ({hash_of_sources()[:12]})"


def require_same_program(theirs: str, where: str) -> None:
    """Refuse a machine with another version.

    Raises:
        ClusterError: It has one.
    """
    if theirs != program_id():
        raise ClusterError(
            f"{where} has gguf-hub {theirs}: expected {program_id()}, as here",
            hint="install the same version on all machines: `pip install -U gguf-hub`",
        )

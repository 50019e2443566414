"""The record of verified files, served as a Hugging Face Hub that other machines download from.

Read-only. What a request names is a key in a table of verified files, never a path: nothing of it
reaches the file system. This room knows nothing about models, quants or the hub itself.
"""

from gguf_hub.hub.mirror.repository_index import LOCAL_REPO_ID, RepositoryIndex, Snapshot
from gguf_hub.hub.mirror.server import Mirror

__all__ = ["LOCAL_REPO_ID", "Mirror", "RepositoryIndex", "Snapshot"]

"""What a Hugging Face Hub has, and byte ranges of it.

The only importer of huggingface_hub, and the one place where its errors become ours. This room
knows nothing about quants, files on disk or the user interface.
"""

from gguf_hub.hub.client.client import OTHER_SIZE_HINT, HfHub, other_size
from gguf_hub.hub.client.endpoint import DEFAULT_ENDPOINT, default_endpoint
from gguf_hub.hub.client.interface import (
    ByteStream,
    FileMetadata,
    Hub,
    RemoteFile,
    RepoListing,
    is_offline,
)
from gguf_hub.hub.client.transport import UNSENT_TOKEN

__all__ = [
    "DEFAULT_ENDPOINT",
    "OTHER_SIZE_HINT",
    "UNSENT_TOKEN",
    "ByteStream",
    "FileMetadata",
    "HfHub",
    "Hub",
    "RemoteFile",
    "RepoListing",
    "default_endpoint",
    "is_offline",
    "other_size",
]

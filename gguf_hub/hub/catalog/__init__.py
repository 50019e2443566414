"""The models known by quant name: ``catalog.yaml`` as frozen data.

Knows nothing of this machine or of the hub.
"""

from gguf_hub.hub.catalog.entries import (
    Catalog,
    CatalogFile,
    Layout,
    ModelShape,
    Perplexity,
    Recipe,
    TensorGroup,
    bytes_by_role,
    tensor_groups,
)
from gguf_hub.hub.catalog.load import find_catalog, load_catalog, parse_catalog

__all__ = [
    "Catalog",
    "CatalogFile",
    "Layout",
    "ModelShape",
    "Perplexity",
    "Recipe",
    "TensorGroup",
    "bytes_by_role",
    "find_catalog",
    "load_catalog",
    "parse_catalog",
    "tensor_groups",
]

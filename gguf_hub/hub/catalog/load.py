"""Finds, reads and builds a catalog; all problems of a file are reported together."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gguf_hub.errors import CatalogError
from gguf_hub.hub.catalog.checks import check_catalog
from gguf_hub.hub.catalog.entries import (
    Catalog,
    CatalogFile,
    ModelShape,
    Perplexity,
    Recipe,
    bytes_by_role,
)
from gguf_hub.oserrors import reason_of

ENVIRONMENT_VARIABLE = "GGUF_HUB_CATALOG"
FILENAME = "catalog.yaml"
MAX_BYTES = 2**20  # ours has 6 kB: whoever names a model file instead learns so at once


def find_catalog(path: Path | None = None) -> Path:
    """Return the catalog to read: ``path``, GGUF_HUB_CATALOG, or the one that came with gguf-hub.

    Ours lies beside the code in a wheel, and one folder up in a checkout, where people edit it (so
    too in an sdist and an editable install).
    """
    if path is not None:
        return path
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    if named:
        return Path(named)
    package = Path(__file__).resolve().parents[2]
    inside, above = package / FILENAME, package.parent / FILENAME
    return inside if inside.is_file() else above


def load_catalog(path: Path | None = None) -> Catalog:
    """Read and check a catalog.

    Args:
        path: A file of the user's own; by default what ``find_catalog`` finds.

    Raises:
        CatalogError: The file cannot be read or is not sound; it lists every problem.
    """
    source = find_catalog(path)
    try:
        with source.open("rb") as stream:
            data = stream.read(MAX_BYTES + 1)
    except OSError as error:
        problem = f"cannot be read: {reason_of(error)}"
        raise CatalogError(source, [problem], hint=_HINT) from error
    if len(data) > MAX_BYTES:
        raise CatalogError(source, ["larger than 1 MiB: not a catalog"], hint=_HINT)
    try:
        return parse_catalog(data.decode("utf-8-sig"), source)
    except UnicodeDecodeError as error:
        raise CatalogError(source, [f"byte {error.start}: not UTF-8"], hint=_HINT) from error


def parse_catalog(text: str, path: Path) -> Catalog:
    """Check the text of a catalog; ``path`` says in errors where it came from.

    Raises:
        CatalogError: The text is not a sound catalog; it lists every problem.
    """
    issues: list[str] = []
    tree = _parse_yaml(text, path, issues)
    values = check_catalog(tree, issues)
    if issues:
        raise CatalogError(path, issues, hint=_HINT)
    return _build(values, path)


_HINT = "without --catalog and GGUF_HUB_CATALOG, gguf-hub uses the catalog that it came with"


def _parse_yaml(text: str, path: Path, issues: list[str]) -> Any:
    """Return the plain data of a YAML text; note keys that a mapping holds twice."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            """Report keys that stand twice, of which YAML keeps the last silently."""
            names: set[str] = set()
            for key, _ in node.value:
                name = str(key.value)
                if name in names:
                    issues.append(f"line {key.start_mark.line + 1}: `{name}` appears twice")
                names.add(name)
            return super().construct_mapping(node, deep)

    try:
        # not the loader in C: it crashes on text nested a million levels deep
        return yaml.load(text, Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        location = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise CatalogError(path, [f"{location}not YAML: {error.problem}"], hint=_HINT) from error
    except RecursionError as error:
        raise CatalogError(path, ["nested too deeply"], hint=_HINT) from error
    except (yaml.YAMLError, ValueError) as error:
        first_line = str(error).split("\n", 1)[0]
        raise CatalogError(path, [f"not YAML: {first_line}"], hint=_HINT) from error


def _build(values: Mapping[str, Any], path: Path) -> Catalog:
    shape = ModelShape(**values["architecture"])
    files = tuple(_build_file(file, shape) for file in values["files"])
    return Catalog(**{**values, "architecture": shape, "files": files, "path": path})


def _build_file(values: Mapping[str, Any], shape: ModelShape) -> CatalogFile:
    recipe = Recipe(**values["recipe"]) if values["recipe"] else None
    tensor_bytes = values["tensor_bytes"] or values["size_bytes"]
    if recipe:
        tensor_bytes = sum(bytes_by_role(shape, recipe).values())
    perplexity = Perplexity(**values["perplexity"]) if values["perplexity"] else None
    return CatalogFile(
        **{
            **values,
            "recipe": recipe,
            "tensor_bytes": tensor_bytes,
            "perplexity": perplexity,
        }
    )

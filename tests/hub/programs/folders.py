"""Folders of other programs, written by hand from what they document."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path


def put_blob(folder: Path, data: bytes) -> tuple[Path, str]:
    """Put a part into Ollama's folder; return its file and its digest."""
    sha256 = hashlib.sha256(data).hexdigest()
    path = folder / "blobs" / f"sha256-{sha256}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path, f"sha256:{sha256}"


def ollama_model(
    folder: Path, name: str, data: bytes, file_type: str = "Q4_0", tree: str = "manifests",
    template: str = "", **settings: str
) -> Path:  # fmt: skip
    """Put a model into Ollama's folder, as ``host/namespace/model/tag``; return its blob."""
    blob, digest = put_blob(folder, data)
    config = json.dumps({"model_format": "gguf", "file_type": file_type, **settings}).encode()
    _, config_digest = put_blob(folder, config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": {"digest": config_digest, "size": len(config)},
        "layers": [
            {"mediaType": "application/vnd.ollama.image.license", "digest": config_digest},
            {"mediaType": "application/vnd.ollama.image.model", "digest": digest,
             "size": len(data)},
        ],
    }  # fmt: skip
    if template:
        _, its = put_blob(folder, template.encode())
        layer = {"mediaType": "application/vnd.ollama.image.template", "digest": its}
        manifest["layers"].append(layer)  # type: ignore[attr-defined]
    path = folder / tree / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(manifest))
    return blob

"""Ollama's folder: names, manifests and blobs, as it reads and writes them.

``manifests/HOST/NAMESPACE/MODEL/TAG`` is a small JSON file that names its parts (layers) by
SHA-256; the parts are ``blobs/sha256-HEX``. Newer versions keep a second tree, ``manifests-v2``,
in which their own host is called ollama.com; it counts before the first one, and both are read.

Source: Ollama at 0029bb5, server/create.go, manifest/manifest.go, manifest/layer.go,
types/model/name.go, types/model/config.go.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf_hub.errors import UsageError

HOST = "registry.ollama.ai"
_V2_HOST = "ollama.com"
_NAMESPACE = "library"
_TAG = "latest"
_TREES = ("manifests-v2", "manifests")
_MAX_BYTES = 4 << 20
_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")

MODEL = "application/vnd.ollama.image.model"
TEMPLATE = "application/vnd.ollama.image.template"
PARAMS = "application/vnd.ollama.image.params"
_CONFIG = "application/vnd.docker.container.image.v1+json"
_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
_LIST = "application/vnd.ollama.manifest.list.v2+json"


@dataclass(frozen=True)
class OllamaName:
    """A model's name, in full."""

    host: str
    namespace: str
    model: str
    tag: str

    @classmethod
    def parse(cls, text: str) -> OllamaName:
        """Read ``[HOST/][NAMESPACE/]MODEL[:TAG]``.

        Raises:
            UsageError: It is no such name.
        """
        path, _, tag = text.rpartition(":") if ":" in text.rpartition("/")[2] else (text, "", _TAG)
        parts = path.split("/")
        defaults = [HOST, _NAMESPACE]
        host, namespace, model = (
            [*defaults[: 3 - len(parts)], *parts] if len(parts) < 4 else [""] * 3
        )
        name = cls(host, namespace, model, tag)
        if not _HOST.fullmatch(host) or not all(map(_PART.fullmatch, (namespace, model, tag))):
            raise UsageError(
                f"`{text}` is no name of a model in Ollama",
                hint="it is written `NAME`, `NAME:TAG`, `USER/NAME:TAG` or `hf.co/ORG/REPO:TAG`",
            )
        return name

    @property
    def text(self) -> str:
        """The name as Ollama lists it."""
        place = {(HOST, _NAMESPACE): ""}.get((self.host, self.namespace))
        if place is None:
            place = f"{self.namespace}/" if self.host == HOST else f"{self.host}/{self.namespace}/"
        return f"{place}{self.model}:{self.tag}"

    @property
    def repo_id(self) -> str | None:
        """The repository on the Hugging Face Hub that the name is of; None for none."""
        is_hub = self.host in ("hf.co", "huggingface.co")
        return f"{self.namespace}/{self.model}" if is_hub else None

    def paths(self, folder: Path) -> list[Path]:
        """Return where a manifest of this name may be, the one that counts first."""
        v2_host = _V2_HOST if self.host == HOST else self.host
        hosts = (v2_host, self.host)
        rest = (self.namespace, self.model, self.tag)
        return [folder.joinpath(tree, host, *rest)
                for tree, host in zip(_TREES, hosts, strict=True)]  # fmt: skip


@dataclass(frozen=True)
class OllamaModel:
    """A model as a manifest describes it.

    Attributes:
        name: Its name.
        path: The blob with the GGUF.
        sha256: What the blob is named after.
        quant: The quantisation that the model's settings name; None where they do not.
    """

    name: OllamaName
    path: Path
    sha256: str
    quant: str | None


def read_models(folder: Path) -> Iterator[OllamaModel]:
    """Yield the models whose GGUF is one file that is there; what is broken is passed over."""
    seen = set()
    for tree in _TREES:
        for path in sorted((folder / tree).glob("*/*/*/*")):
            host, *rest = path.relative_to(folder / tree).parts
            name = OllamaName(HOST if host == _V2_HOST else host, *rest)
            if name not in seen and not path.name.startswith("."):
                seen.add(name)
                model = _model_of(folder, name, read_manifest(folder, path))
                if model is not None:
                    yield model


def digests_in_use(folder: Path, *, but: Path) -> set[str]:
    """Return the SHA-256 of every part that some manifest other than ``but`` names."""
    digests = set()
    for tree in _TREES:
        for path in (folder / tree).glob("*/*/*/*"):
            if path != but:
                manifest = _read_json(path)
                digests |= {match.lower() for match in _DIGEST.findall(json.dumps(manifest))}
    return digests


def read_manifest(folder: Path, path: Path) -> Mapping[str, Any]:
    """Return a manifest; of a list of them, the one for GGUF files. Empty for none."""
    manifest = _read_json(path)
    if manifest.get("mediaType") != _LIST:
        return manifest
    for child in _dicts(manifest.get("manifests")):
        if child.get("format", "gguf") != "gguf":
            continue
        if "layers" not in child and (blob := _blob(folder, child.get("digest"))):
            child = _read_json(blob)
        if _layers(child, MODEL):
            return child
    return {}


def _model_of(folder: Path, name: OllamaName, manifest: Mapping[str, Any]) -> OllamaModel | None:
    layers = _layers(manifest, MODEL)
    if len(layers) != 1:  # of several files: their names here do not say which is which
        return None
    blob = _blob(folder, layers[0].get("digest"))
    if blob is None or not blob.is_file():
        return None
    config = manifest.get("config")
    settings = _blob(folder, config.get("digest")) if isinstance(config, dict) else None
    quant = _read_json(settings).get("file_type") if settings else None
    quant = quant if isinstance(quant, str) and _PART.fullmatch(quant) else None
    return OllamaModel(name, blob, blob.name.removeprefix("sha256-"), quant)


def read_conversations(blob: Path) -> Iterator[tuple[str, str]]:
    """Yield template and renderer of each manifest that names a blob as its model."""
    blob = blob.absolute()
    folder = blob.parent.parent
    if blob.parent.name != "blobs" or not blob.name.startswith("sha256-"):
        return
    for tree in _TREES:
        for path in sorted((folder / tree).glob("*/*/*/*")):
            manifest = read_manifest(folder, path)
            layers = _layers(manifest, MODEL)
            if blob not in [_blob(folder, layer.get("digest")) for layer in layers]:
                continue
            config = manifest.get("config")
            settings = _blob(folder, config.get("digest")) if isinstance(config, dict) else None
            renderer = _read_json(settings).get("renderer") if settings else None
            templates = [_blob(folder, layer.get("digest"))
                         for layer in _layers(manifest, TEMPLATE)]  # fmt: skip
            text = "".join(_read_text(each) for each in templates if each is not None)
            yield text, renderer if isinstance(renderer, str) else ""


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""


def _layers(manifest: Mapping[str, Any], kind: str) -> list[Mapping[str, Any]]:
    return [layer for layer in _dicts(manifest.get("layers")) if layer.get("mediaType") == kind]


def _dicts(values: object) -> list[dict[str, Any]]:
    values = values if isinstance(values, list) else []
    return [value for value in values if isinstance(value, dict)]


def _blob(folder: Path, digest: object) -> Path | None:
    match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    return blob_path(folder, match[1].lower()) if match else None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(_MAX_BYTES))
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


# -- writing -------------------------------------------------------------------------------------


def blob_path(folder: Path, sha256: str) -> Path:
    """Return where a part lies."""
    return folder / "blobs" / f"sha256-{sha256}"


@dataclass(frozen=True)
class ModelFacts:
    """What Ollama writes down of a GGUF.

    Attributes:
        sha256: Of the file.
        size_bytes: Of the file.
        architecture: ``general.architecture``.
        file_type: Name of the quantisation, such as ``Q4_K_M``.
        n_params: Weights.
    """

    sha256: str
    size_bytes: int
    architecture: str
    file_type: str
    n_params: int


def entry_of(
    facts: ModelFacts, template: str | None = None, stop: Sequence[str] = ()
) -> tuple[bytes, list[bytes]]:
    """Return the manifest of a model and the small parts that it names, as Ollama writes them.

    Args:
        facts: The model.
        template: Template of the conversation, in Ollama's language (Go's).
        stop: Texts at which an answer ends.
    """
    parts: list[tuple[str, bytes]] = []
    if template is not None:
        parts.append((TEMPLATE, template.encode()))
    if stop:
        parts.append((PARAMS, _go_json({"stop": list(stop)})))
    layers = [_layer(MODEL, facts.sha256, facts.size_bytes)]
    layers += [_layer(kind, _sha256(data), len(data)) for kind, data in parts]
    config = _go_json({
        "model_format": "gguf", "model_family": facts.architecture,
        "model_families": [facts.architecture], "model_type": human_number(facts.n_params),
        "file_type": facts.file_type, "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in layers]},
    })  # fmt: skip
    manifest = {
        "schemaVersion": 2, "mediaType": _MANIFEST,
        "config": _layer(_CONFIG, _sha256(config), len(config)), "layers": layers,
    }  # fmt: skip
    return _go_json(manifest), [config, *(data for _, data in parts)]


def human_number(n: int) -> str:
    """Return a count as Ollama shows it: ``7.2B``, ``134.52M``. Source: format/format.go."""
    if n >= 10**9:
        return f"{n / 10**9:.1f}B"
    if n >= 10**6:
        return f"{n / 10**6:.2f}M"
    return f"{n / 10**3:.0f}K" if n >= 10**3 else str(n)


def is_same_model(folder: Path, path: Path, sha256: str) -> bool:
    """Return whether a manifest is of a model with these bytes."""
    layers = _layers(read_manifest(folder, path), MODEL)
    blobs = [_blob(folder, layer.get("digest")) for layer in layers]
    return blobs == [blob_path(folder, sha256)] and os.path.lexists(blobs[0] or "")


def _layer(kind: str, sha256: str, size_bytes: int) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{sha256}", "size": size_bytes}


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _go_json(value: object) -> bytes:
    """Return JSON as Go's encoder writes it: compact, ``<>&`` escaped, a line break at the end."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for letter in "<>&":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text.encode() + b"\n"

"""The very commands that get and run what was picked."""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gguf_hub.cli.pick.candidates import CandidateSet, Model
    from gguf_hub.hub.fit import Fit, Pick

PROMPT = '-p "Once upon a time"'


def commands_for(subject: CandidateSet, found: Pick) -> list[str]:
    """Return the commands for the chosen file, in order; none where none was chosen."""
    if found.chosen is None:
        return []
    model = next(m for m in subject.models if m.facts is found.chosen.facts)
    if found.constraints.engine == "llama.cpp":
        return _for_llama_cpp(model, found.chosen)
    return _for_us(model, found.chosen)


def _for_us(model: Model, fit: Fit) -> list[str]:
    name = shlex.quote(model.argument)
    get = [] if model.path or fit.is_on_disk else [f"gguf-hub download {name}"]
    kv = " -ctk q8_0 -ctv q8_0" if fit.constraints.kv_type == "q8_0" else ""
    return [*get, f"gguf-hub run {name} -c {fit.constraints.n_ctx}{kv} {PROMPT}"]


def _for_llama_cpp(model: Model, fit: Fit) -> list[str]:
    """llama.cpp reads shards as they are, but no split experts."""
    file = _here(model)
    lines = []
    if not model.path:
        lines.append(f"gguf-hub download {shlex.quote(model.argument)} --local-dir .")
    if model.facts.layout == "split":
        merged = shlex.quote(f"{_name(model)}.merged.gguf")
        lines.append(f"gguf-hub upgrade {file} {merged}")
        file = merged
    placement, kv = fit.placement, fit.constraints.kv_type
    flags = [f"-m {file}", f"-c {fit.constraints.n_ctx}", f"-ngl {placement.n_gpu_layers}"]
    flags += [f"--n-cpu-moe {placement.n_cpu_moe}"] * bool(placement.n_cpu_moe)
    flags += [f"-ctk {kv} -ctv {kv}"] * (kv != "f16")
    return [*lines, f"llama-completion {' '.join(flags)} {PROMPT}"]


def _here(model: Model) -> str:
    """Return the path of the first file once it is here."""
    return shlex.quote(str(model.path) if model.path else model.facts.filename)


def _name(model: Model) -> str:
    """Return the path of the file without its suffix and the shard's number."""
    from gguf_hub.gguf.shard_names import model_name

    first = model.path or PurePosixPath(model.facts.filename)
    return str(first.with_name(model_name(first)))

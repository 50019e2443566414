"""The commands that download and run the picked file."""

from __future__ import annotations

import shlex
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gguf_hub.cli.pick.candidates import CandidateSet, Model
    from gguf_hub.hub.fit import Fit, Pick

PROMPT = '-p "Once upon a time"'


def commands_for(candidates: CandidateSet, pick: Pick) -> list[str]:
    """Return the commands for the chosen file, in order; none without a choice."""
    if pick.chosen is None:
        return []
    model = next(model for model in candidates.models if model.file is pick.chosen.facts)
    if pick.constraints.engine == "llama.cpp":
        return _for_llama_cpp(model, pick.chosen)
    return _for_gguf_hub(model, pick.chosen)


def _for_gguf_hub(model: Model, fit: Fit) -> list[str]:
    from gguf_hub.hub.fit.placement import ALL_LAYERS

    name = shlex.quote(model.argument)
    download_line = [] if model.path or fit.is_on_disk else [f"gguf-hub download {name}"]
    merge_line, whole = _joining(model)
    if model.file.shape.is_encoder:  # which needs no prompt, and keeps no keys and values
        serve_line = f"gguf-hub serve {whole or name} -c {fit.constraints.n_ctx}"
        return [*download_line, *merge_line, serve_line]
    type_ = fit.constraints.kv_type
    kv = f" -ctk {type_} -ctv {type_}" if type_ != "f16" else ""
    layers = fit.placement.n_gpu_layers
    ngl = f" -ngl {'all' if layers == ALL_LAYERS else layers}" if layers else ""
    run_line = f"gguf-hub run {whole or name} -c {fit.constraints.n_ctx}{kv}{ngl} {PROMPT}"
    return [*download_line, *merge_line, run_line]


def _joining(model: Model) -> tuple[list[str], str]:
    """Return the command that joins raw parts and the file that it writes; nothing for others."""
    from gguf_hub.gguf.raw_parts import parse_raw_part

    first = model.path or PurePosixPath(model.file.filename)
    part = parse_raw_part(first.name)
    if part is None:
        return [], ""
    path = f'"$(gguf-hub path {shlex.quote(model.argument)})"'
    source, whole = shlex.quote(str(model.path)) if model.path else path, shlex.quote(part.whole)
    return [f"gguf-hub merge {source} {whole}"], whole


def _for_llama_cpp(model: Model, fit: Fit) -> list[str]:
    """Return the commands; llama.cpp reads shards, but no split experts."""
    file = _local_path(model)
    lines = []
    if not model.path:
        lines.append(f"gguf-hub download {shlex.quote(model.argument)} --local-dir .")
    merge_line, whole = _joining(model)
    lines += merge_line
    file = whole or file
    if model.file.layout == "split":
        merged = shlex.quote(f"{_name(model)}.merged.gguf")
        lines.append(f"gguf-hub upgrade {file} {merged}")
        file = merged
    placement, kv = fit.placement, fit.constraints.kv_type
    flags = [f"-m {file}", f"-c {fit.constraints.n_ctx}", f"-ngl {placement.n_gpu_layers}"]
    flags += [f"--n-cpu-moe {placement.n_cpu_moe}"] * bool(placement.n_cpu_moe)
    flags += [f"-ctk {kv} -ctv {kv}"] * (kv != "f16")
    flash_attn = fit.constraints.flash_attn
    flags += [f"-fa {flash_attn}"] * (flash_attn != "auto")
    program = "llama-embedding" if model.file.shape.is_encoder else "llama-completion"
    return [*lines, f"{program} {' '.join(flags)} {PROMPT}"]


def _local_path(model: Model) -> str:
    """Return the path of the first file after the download."""
    return shlex.quote(str(model.path) if model.path else model.file.filename)


def _name(model: Model) -> str:
    """Return the path without suffix and shard number."""
    from gguf_hub.gguf.shard_names import model_name

    first = model.path or PurePosixPath(model.file.filename)
    return str(first.with_name(model_name(first)))

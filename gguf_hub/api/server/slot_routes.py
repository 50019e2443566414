"""llama-server's routes about slots: their state, and their caches in files."""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from gguf_hub.api.server.bodies import Body
from gguf_hub.api.server.flow import while_connected
from gguf_hub.api.server.measures import sampling_of
from gguf_hub.api.server.replies import Json, error, not_offered
from gguf_hub.api.server.service import Service
from gguf_hub.api.server.slot_files import SlotFiles
from gguf_hub.api.server.slots import Slot
from gguf_hub.errors import UsageError
from gguf_hub.run.generation.engine import Engine

router = APIRouter(tags=["llama-server"])

Answer = dict[str, Any]


class SlotBody(Body):
    """The file of a slot."""

    filename: str = ""


@router.get("/slots")
async def slots(request: Request, fail_on_no_slot: str = "") -> Response:
    """Return the state of each slot; 503 with ``fail_on_no_slot`` where all are in use."""
    service: Service = request.app.state.service
    if not request.app.state.offers.slots:
        return not_offered(request, "state of slots", "--slots")
    if fail_on_no_slot and service.scheduler.n_busy == len(service.scheduler.slots):
        return error(request.url.path, 503, "all slots are in use")
    return Json([_state(service, slot) for slot in service.scheduler.slots])


@router.post("/slots/{id_slot}")
async def act(
    id_slot: int, request: Request, action: str = "", body: SlotBody | None = None
) -> Response:
    """Save the cache of a slot to a file, restore it, or erase it."""
    service: Service = request.app.state.service
    files = service.slot_files
    if files is None:
        return not_offered(request, "files of slots", "--slot-save-path FOLDER")
    name = body.filename if body is not None else ""
    acts = {"save": _save, "restore": _restore, "erase": _erase}
    if action not in acts:
        raise UsageError(f"action: expected save, restore or erase, found `{action:.60}`")
    return Json(await while_connected(request, acts[action](service, files, id_slot, name)))


async def _save(service: Service, files: SlotFiles, slot: int, name: str) -> Answer:
    path, start_time = files.path_of(name), time.perf_counter()
    saved = await service.on_slot(slot, files.take)
    size_bytes = await service.bulk.run(files.write, path, saved)
    return {"id_slot": slot, "filename": name, "n_saved": len(saved.tokens),
            "n_written": size_bytes, "timings": {"save_ms": _ms_since(start_time)}}  # fmt: skip


async def _restore(service: Service, files: SlotFiles, slot: int, name: str) -> Answer:
    path, start_time = files.path_of(name), time.perf_counter()
    saved, size_bytes = await service.bulk.run(files.read, path)
    await service.on_slot(slot, partial(files.put, saved))
    return {"id_slot": slot, "filename": name, "n_restored": len(saved.tokens),
            "n_read": size_bytes, "timings": {"restore_ms": _ms_since(start_time)}}  # fmt: skip


async def _erase(service: Service, files: SlotFiles, slot: int, name: str) -> Answer:
    return {"id_slot": slot, "n_erased": await service.on_slot(slot, _forget)}


def _forget(engine: Engine) -> int:
    n_tokens = engine.n_cached
    engine.reset()
    return n_tokens


def _ms_since(start_time: float) -> float:
    return (time.perf_counter() - start_time) * 1000


def _state(service: Service, slot: Slot) -> Answer:
    """Return the state of a slot, without its text: clients see each other's slots."""
    sequence = slot.sequence
    state = {"id": slot.index, "n_ctx": service.model_info.n_ctx,
             "speculative": slot.engine.drafter is not None,
             "is_processing": sequence is not None}  # fmt: skip
    if sequence is None:
        return {**state, "n_prompt_tokens": slot.engine.n_cached}
    generation = sequence.generation
    timings, n_left = generation.timings, generation.n_left
    text = generation.tokens[len(generation.request.prompt) :]
    return {
        **state,
        "n_prompt_tokens": len(generation.request.prompt),
        "n_prompt_tokens_processed": timings.n_prompt,
        "n_prompt_tokens_cache": timings.n_cached,
        "params": sampling_of(generation),
        "next_token": [{
            "has_next_token": not generation.is_done,
            "has_new_line": "\n" in service.tokenizer.decode(text),
            "n_remain": -1 if n_left == math.inf else int(n_left),
            "n_decoded": generation.n_generated,
        }],
    }  # fmt: skip

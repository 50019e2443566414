"""GPUs through wgpu (Vulkan, Metal, Direct3D 12); nothing else imports it.

wgpu-py makes objects and reports errors. Commands are recorded by the C functions under it: its
own methods take twice as long, 8 microseconds a dispatch (docs/experiments.md).
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, wraps
from pathlib import Path
from typing import Any

import numpy as np
import wgpu
from numpy.typing import NDArray
from wgpu.backends.wgpu_native._api import GPUShaderModule, libf, new_struct_p, to_c_string_view
from wgpu.backends.wgpu_native._ffi import ffi, lib
from wgpu.backends.wgpu_native.extras import set_instance_extras

from gguf_hub.errors import GpuError, GpuMemoryError
from gguf_hub.run.gpu.device import AdapterInfo, Dispatch, Slice
from gguf_hub.units import format_size

_USAGE = (
    wgpu.BufferUsage.STORAGE
    | wgpu.BufferUsage.UNIFORM
    | wgpu.BufferUsage.COPY_DST
    | wgpu.BufferUsage.COPY_SRC
)
_LIMITS = (
    "max-storage-buffer-binding-size",
    "max-buffer-size",
    "max-storage-buffers-per-shader-stage",
    "max-compute-workgroup-size-x",
    "max-compute-invocations-per-workgroup",
    "max-compute-workgroup-storage-size",
)
_MAX_PENDING = 64 << 20
"""Bytes that wait to be copied to the GPU."""

_ORDER = {"Vulkan": 0, "Metal": 0, "D3D12": 1, "OpenGL": 9, "OpenGLES": 9}
"""Backend -> the lower, the faster."""
_SHADER_BYTES = 64 << 20
"""What Mesa's cache of shaders wants free: its index has 1.3 MB, kernels of a model some more."""

_BINDING = re.compile(r"@binding\((\d+)\)\s*var<(uniform|storage)(?:,\s*(read|read_write))?>")
_TYPES = {
    ("uniform", ""): "uniform",
    ("storage", ""): "read-only-storage",
    ("storage", "read"): "read-only-storage",
    ("storage", "read_write"): "storage",
}


def _in_our_errors(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method of a device raise ``GpuError`` where wgpu has one of its own."""

    @wraps(method)
    def wrapped(self: WgpuDevice, *args: Any, **options: Any) -> Any:
        try:
            return method(self, *args, **options)
        except wgpu.GPUError as exc:
            kind = GpuMemoryError if isinstance(exc, wgpu.GPUOutOfMemoryError) else GpuError
            text = " ".join(str(exc).split())
            raise kind(f"GPU `{self.info.name}`: {text}") from exc

    return wrapped


class _Kernel:
    """A compiled kernel.

    Attributes:
        pipeline: wgpu's.
        layout: Of its bindings.
        numbers: Of its bindings.
    """

    def __init__(self, pipeline: Any, layout: Any, numbers: Sequence[int]) -> None:
        self.pipeline = pipeline
        self.layout = layout
        self.numbers = numbers


def list_adapters() -> list[tuple[AdapterInfo, Any]]:
    """Return the GPUs that drivers offer, software ones too, each once and the fastest API first.

    Returns:
        Each with what ``WgpuDevice`` opens.
    """
    _choose_backends()
    adapters = wgpu.gpu.enumerate_adapters_sync()
    pairs = [(_describe(adapter), adapter) for adapter in adapters]
    pairs.sort(key=lambda pair: _ORDER.get(pair[0].backend, 5))
    chosen = _without_repeats([info for info, _ in pairs])
    return [pair for pair in pairs if pair[0] in chosen]


def _without_repeats(infos: Sequence[AdapterInfo]) -> list[AdapterInfo]:
    """Leave out what a second API or driver says of a card; two equal cards are alike in both."""
    first: dict[tuple[object, ...], AdapterInfo] = {}
    for info in infos:
        if _ORDER.get(info.backend, 5) < 9:
            card = (info.vendor_id, info.device_id) if info.device_id else (info.name,)
            first.setdefault(card, info)
    return list(first.values())


@cache
def _choose_backends() -> None:
    """Make wgpu's instance, once in a process, for the APIs that have enough buffers for kernels.

    OpenGL has not, takes longest to start, and prints what it misses of a display. So does a layer
    of Mesa for Vulkan that lets people choose a GPU by windows; it is left out where there is no
    session with windows.
    """
    has_session = "XDG_RUNTIME_DIR" in os.environ or "NODEVICE_SELECT" in os.environ
    if not has_session:
        os.environ["NODEVICE_SELECT"] = "1"
    if not _has_room_for_shaders():
        os.environ["MESA_SHADER_CACHE_DISABLE"] = "true"
    try:
        with suppress(RuntimeError):  # the program that we are part of has made one
            set_instance_extras(backends=("Vulkan", "Metal", "DX12"))
    finally:
        if not has_session:
            del os.environ["NODEVICE_SELECT"]


def _has_room_for_shaders() -> bool:
    """Whether Mesa's cache of compiled shaders can grow; on a full disk it ends the process.

    It maps a file that the disk has no room for, and is killed by SIGBUS as it writes there.
    """
    cache = os.environ.get("MESA_SHADER_CACHE_DIR") or os.environ.get("XDG_CACHE_HOME")
    folder = Path(cache) if cache else Path.home() / ".cache"
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free >= _SHADER_BYTES
    except OSError:
        return False


def _describe(adapter: Any) -> AdapterInfo:
    info, limits = adapter.info, adapter.limits
    return AdapterInfo(
        name=info["device"],
        backend=info["backend_type"],
        kind=info["adapter_type"],
        driver=info["description"],
        vendor_id=int(info["vendor_id"]),
        device_id=int(info["device_id"]),
        max_binding=int(limits["max-storage-buffer-binding-size"]),
        max_buffer=int(limits["max-buffer-size"]),
    )


class WgpuDevice:
    """A GPU that is open.

    Args:
        adapter: As ``list_adapters`` returns it.
        max_binding: Let no kernel see more bytes of a buffer, for tests; None for the driver's.
    """

    def __init__(self, adapter: Any, max_binding: int | None = None) -> None:
        self.info = _describe(adapter)
        limits = {name: adapter.limits[name] for name in _LIMITS}
        features = [name for name in ("subgroup",) if name in adapter.features]
        try:
            self._device = adapter.request_device_sync(
                required_features=features,
                required_limits={name: n for name, n in limits.items() if n < 2**63},
            )
        except Exception as exc:
            raise GpuError(f"the driver of `{self.info.name}` does not open it: {exc}") from exc
        self.has_subgroups = bool(features)
        self.max_binding = min(max_binding or self.info.max_binding, self.info.max_binding)
        self._queue = self._device.queue
        self._kernels: dict[str, _Kernel] = {}
        self._staging: Any = None
        self._n_pending = 0
        self._mapping = _Mapping()

    def buffer(self, size_bytes: int) -> Any:
        """Return a buffer of zeros."""
        size = max(16, -(-size_bytes // 16) * 16)
        try:
            return self._device.create_buffer(size=size, usage=_USAGE)
        except Exception as exc:  # wgpu has a class of errors for each version
            raise GpuMemoryError(
                f"GPU `{self.info.name}` has no room for {format_size(size)} more",
                hint="put fewer layers on it: `-ngl N`; or use a smaller context: `-c`",
            ) from exc

    def free(self, buffer: Any) -> None:
        """Give a buffer's memory back."""
        with suppress(wgpu.GPUError):  # the device may be lost, and its memory with it
            buffer.destroy()

    @_in_our_errors
    def write(self, buffer: Any, offset: int, data: NDArray[Any]) -> None:
        """Copy numbers into a buffer before what is submitted next.

        wgpu keeps a copy of them until then; of weights that would be the whole model.
        """
        self._queue.write_buffer(buffer, offset, np.ascontiguousarray(data))
        self._n_pending += data.nbytes
        if self._n_pending > _MAX_PENDING:
            self._queue.submit([])
            self._wait()

    @_in_our_errors
    def read(self, reads: Sequence[Slice]) -> list[NDArray[np.uint8]]:
        """Wait for all that was submitted; return bytes of buffers.

        A staging buffer mapped on this thread takes a third of the time of wgpu-py's
        ``read_buffer``.
        """
        sizes = [-(-each.size // 4) * 4 for each in reads]
        total = max(16, sum(sizes))
        staging = self._staging_of(total)
        encoder = self._device.create_command_encoder()
        at = 0
        for each, size in zip(reads, sizes, strict=True):
            encoder.copy_buffer_to_buffer(each.buffer, each.offset, staging, at, size)
            at += size
        self._queue.submit([encoder.finish()])
        data = self._map(staging, total)
        starts = np.cumsum([0, *sizes])
        return [data[start:][: each.size] for start, each in zip(starts, reads, strict=False)]

    def kernel(self, source: str, *, is_checked: bool = True) -> _Kernel:
        """Compile a WGSL module whose entry is ``main``; the same source is compiled once."""
        if source not in self._kernels:
            self._kernels[source] = self._compile(source, is_checked)
        return self._kernels[source]

    @_in_our_errors
    def bind(self, kernel: _Kernel, slices: dict[int, Slice]) -> Any:
        """Return what a kernel sees at each of its bindings; others are left out."""
        entries = [
            {
                "binding": number,
                "resource": {
                    "buffer": slices[number].buffer,
                    "offset": slices[number].offset,
                    "size": slices[number].size,
                },
            }
            for number in kernel.numbers
        ]
        return self._device.create_bind_group(layout=kernel.layout, entries=entries)

    @_in_our_errors
    def record(self, dispatches: Sequence[Dispatch]) -> Any:
        """Return dispatches as commands, to be submitted once."""
        encoder = self._device.create_command_encoder()
        pass_ = encoder.begin_compute_pass()
        inner, null, last = pass_._internal, ffi.NULL, None
        set_pipeline = lib.wgpuComputePassEncoderSetPipeline
        set_bindings = lib.wgpuComputePassEncoderSetBindGroup
        run = lib.wgpuComputePassEncoderDispatchWorkgroups
        for kernel, bindings, (x, y, z) in dispatches:
            if kernel is not last:
                set_pipeline(inner, kernel.pipeline._internal)
                last = kernel
            set_bindings(inner, 0, bindings._internal, 0, null)
            run(inner, x, y, z)
        pass_.end()
        return encoder.finish()

    @_in_our_errors
    def submit(self, commands: Any) -> None:
        """Run recorded commands."""
        self._queue.submit([commands])

    def close(self) -> None:
        """Free the device."""
        self._kernels.clear()
        self._staging = None
        with suppress(wgpu.GPUError):  # it may be lost
            self._device.destroy()
            self._device._release()  # wgpu-py's device refers to itself: it would keep its memory

    def _compile(self, source: str, is_checked: bool) -> _Kernel:
        found = sorted({(int(n), kind, how) for n, kind, how in _BINDING.findall(source)})
        entries = [
            {
                "binding": number,
                "visibility": wgpu.ShaderStage.COMPUTE,
                "buffer": {"type": _TYPES[kind, how]},
            }
            for number, kind, how in found
        ]
        try:
            layout = self._device.create_bind_group_layout(entries=entries)
            pipeline = self._device.create_compute_pipeline(
                layout=self._device.create_pipeline_layout(bind_group_layouts=[layout]),
                compute={
                    "module": self._module(source, is_checked),
                    "entry_point": "main",
                },
            )
        except Exception as exc:
            raise GpuError(f"the driver of `{self.info.name}` refuses a kernel: {exc}") from exc
        return _Kernel(pipeline, layout, [number for number, _, _ in found])

    def _module(self, source: str, is_checked: bool) -> Any:
        if is_checked:
            return self._device.create_shader_module(code=source)
        # as wgpu-py's own method, which has no argument for it
        wgsl = new_struct_p("WGPUShaderSourceWGSL *", code=to_c_string_view(source))
        wgsl[0].chain.next = ffi.NULL
        wgsl[0].chain.sType = lib.WGPUSType_ShaderSourceWGSL
        described = new_struct_p(
            "WGPUShaderModuleDescriptor *",
            nextInChain=ffi.cast("WGPUChainedStruct *", wgsl),
            label=to_c_string_view(""),
        )
        module = libf.wgpuDeviceCreateShaderModuleTrusted(
            self._device._internal, described, lib.WGPUShaderRuntimeChecks_None
        )
        return GPUShaderModule("", module, self._device)

    def _staging_of(self, size: int) -> Any:
        if self._staging is None or self._staging.size < size:
            usage = wgpu.BufferUsage.MAP_READ | wgpu.BufferUsage.COPY_DST
            self._staging = self._device.create_buffer(size=size, usage=usage)
        return self._staging

    def _map(self, staging: Any, size: int) -> NDArray[np.uint8]:
        """Wait, and return a copy of the first bytes of the staging buffer."""
        try:
            info = self._mapping.begin()
            lib.wgpuBufferMapAsync(staging._internal, lib.WGPUMapMode_Read, 0, size, info)
            while not self._mapping.is_over():
                self._wait()
            if self._mapping.status != lib.WGPUMapAsyncStatus_Success:
                raise GpuError(f"`{self.info.name}` was lost while it computed")
            address = lib.wgpuBufferGetConstMappedRange(staging._internal, 0, size)
            data: NDArray[np.uint8] = np.frombuffer(ffi.buffer(address, size), np.uint8).copy()
            lib.wgpuBufferUnmap(staging._internal)
        except BaseException:  # Ctrl-C, too: it may be mapped, and take no copy any more
            self._staging = None
            self.free(staging)
            raise
        return data

    def _wait(self) -> None:
        """Wait for all that was submitted."""
        lib.wgpuDevicePoll(self._device._internal, True, ffi.NULL)
        self._n_pending = 0


class _Mapping:
    """What is said of the buffer that is being mapped; it knows no device, which it would keep.

    Attributes:
        status: What wgpu says of it; 0 until then.
    """

    def __init__(self) -> None:
        self.status, self._number = 0, 0
        self._error: BaseException | None = None
        self._callback = ffi.callback(
            "void(WGPUMapAsyncStatus, WGPUStringView, void *, void *)",
            self._answer,
            onerror=self._fail,
        )

    def begin(self) -> Any:
        """Return what wgpu is to call; answers to an earlier mapping count no more."""
        self.status, self._error = 0, None
        self._number += 1
        return ffi.new(
            "WGPUBufferMapCallbackInfo *",
            {
                "mode": lib.WGPUCallbackMode_AllowProcessEvents,
                "callback": self._callback,
                "userdata1": ffi.cast("void *", self._number),
            },
        )[0]

    def is_over(self) -> bool:
        """Tell whether wgpu has answered; raise what the answer was cut off by."""
        if self._error is not None:
            raise self._error
        return self.status != 0

    def _answer(self, status: int, message: Any, number: Any, other: Any) -> None:
        if int(ffi.cast("intptr_t", number)) == self._number:
            self.status = status

    def _fail(self, kind: Any, error: BaseException, traceback: Any) -> None:
        """Keep Ctrl-C: what was pressed while C waited arrives in ``_answer``, in front of C."""
        self._error = error

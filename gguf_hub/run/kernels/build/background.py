"""Compiling kernels while the process already computes with others that give the same results.

A product of weight tiles takes some three times as long to compile as one of rows, and only several
tokens at once gain by it: the first tokens do without. Nothing here touches what computes: finished
objects are kept until somebody asks.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Sequence

from gguf_hub.errors import GgufHubError
from gguf_hub.progress import SILENT
from gguf_hub.resources import usable_threads
from gguf_hub.run.kernels.build.children import Child, Queue, feed
from gguf_hub.run.kernels.build.cpu import Cpu

_NICE = 10  # the process itself goes first


class BackgroundCompile:
    """Compiles kernels in children of low priority.

    Args:
        names: What to compile.
        cpu: The CPU to compile for.
        save: Called with name and object of each kernel, from several threads.
        report: Called, from another thread, with what went wrong: some are never finished then.
    """

    def __init__(
        self,
        names: Sequence[str],
        cpu: Cpu,
        save: Callable[[str, bytes], None],
        report: Callable[[str], None],
    ) -> None:
        self._cpu, self._save, self._report = cpu, save, report
        self._queue = Queue(names)
        self._lock = threading.Lock()
        self._children: list[Child] = []
        self._objects: dict[str, bytes] = {}
        self._is_stopped = False
        self._n_running = min(len(names), usable_threads())
        self._ended = threading.Event()
        atexit.register(self.stop)
        for _ in range(self._n_running):
            try:
                threading.Thread(target=self._work, daemon=True, name="gguf-hub-compile").start()
            except RuntimeError:  # no more threads: those that run do all of it
                self._end_one()

    @property
    def is_running(self) -> bool:
        """Whether kernels are still being compiled."""
        return not self._ended.is_set()

    @property
    def has_objects(self) -> bool:
        """Whether ``take`` would return something."""
        return bool(self._objects)

    def take(self) -> dict[str, bytes]:
        """Return, once, the objects that are finished, by kernel."""
        with self._lock:
            objects, self._objects = self._objects, {}
        return objects

    def wait(self) -> None:
        """Wait until all are finished, or never will be."""
        self._ended.wait()

    def stop(self) -> None:
        """End the children, whatever they are at."""
        atexit.unregister(self.stop)
        with self._lock:
            self._is_stopped = True
            self._queue.clear()
            for child in self._children:
                child.kill()

    def _work(self) -> None:
        try:
            with Child(self._cpu, nice=_NICE) as child:
                with self._lock:
                    self._children.append(child)
                    if self._is_stopped:
                        return
                with SILENT.task("compile kernels", None) as task:
                    feed(child, self._queue, self._keep, task)
        except Exception as error:  # whatever it is, what is computed goes on
            if not self._is_stopped:
                text = error.message if isinstance(error, GgufHubError) else str(error)
                self._report(f"{text}; prompts are computed by slower kernels")
        finally:
            self._end_one()

    def _end_one(self) -> None:
        with self._lock:
            self._n_running -= 1
            if not self._n_running:
                self._ended.set()
                atexit.unregister(self.stop)

    def _keep(self, name: str, code: bytes) -> None:
        with self._lock:
            self._objects[name] = code
        self._save(name, code)

"""The thread that runs the scheduler while there is work."""

from __future__ import annotations

import threading
from collections.abc import Callable

from gguf_hub.api.server.scheduler import Scheduler
from gguf_hub.api.server.slots import AnySequence
from gguf_hub.errors import UnavailableError


class Worker:
    """Runs a scheduler in a thread of its own.

    Args:
        scheduler: The scheduler.
        on_error: Called with unexpected errors.
        after_round: Called after every round, in the worker's thread.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        on_error: Callable[[Exception], None],
        after_round: Callable[[], None] = lambda: None,
    ) -> None:
        self.scheduler = scheduler
        self._on_error = on_error
        self._after_round = after_round
        self._wake = threading.Condition()
        self._is_ended = False
        self._thread = threading.Thread(target=self._work, name="gguf-hub-scheduler", daemon=True)
        self._thread.start()

    def submit(self, *sequences: AnySequence) -> None:
        """Queue sequences.

        Raises:
            BusyError: Too many are waiting, or the server is stopping.
        """
        with self._wake:
            if self._is_ended:
                raise UnavailableError("the server is stopping", hint="use another server")
            self.scheduler.submit(*sequences)
            self._wake.notify()

    def end(self) -> None:
        """Refuse further sequences and fail the open ones, after the current round."""
        with self._wake:
            self._is_ended = True
            self._wake.notify()

    def join(self) -> None:
        """Wait for the thread to end."""
        self._thread.join()

    def _work(self) -> None:
        scheduler = self.scheduler
        while True:
            with self._wake:
                while not scheduler.has_work and not self._is_ended:
                    self._wake.wait()
            if self._is_ended:
                break
            try:
                scheduler.round()
            except Exception as exc:  # no request may stop the server
                self._on_error(exc)
                scheduler.drop_all(exc)
            self._after_round()
        scheduler.drop_all(UnavailableError("the server has stopped"))
        self._after_round()

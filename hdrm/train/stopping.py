"""Ctrl-C and SIGTERM wait for the end of a step, where a training can be continued exactly."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Stopped(KeyboardInterrupt):
    """A training was asked to stop by the signal ``number``."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


class StopSignals:
    """Ctrl-C and SIGTERM, while they are deferred; ``received`` is the first one's number, or 0.

    patient: later ones change nothing.
    """

    def __init__(self, *, patient: bool = False) -> None:
        self.received, self._patient = 0, patient

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """In the ``with`` block signals are remembered; the second one raises Stopped at once.

        The first one raises Stopped at the end of the block. A signal that the process ignores stays
        ignored, and outside the main thread, which alone gets signals, nothing changes.
        """
        before = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if handler not in (signal.SIG_IGN, None):  # None: one that Python cannot put back
                    before[number] = handler
                    signal.signal(number, self._receive)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.received:
            raise Stopped(self.received)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            if self._patient:
                return
            raise Stopped(number)
        self.received = number

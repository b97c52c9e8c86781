"""Ctrl-C, or a scheduler's SIGTERM, ends a training run after the step it is in, with a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """`with Interruption() as stop: …`: the first signal sets `stop.asked`, the second one acts as it always does.

    Outside the main thread, where Python allows no handlers, and with enabled=False, signals act as they always do.
    """

    def __init__(self, enabled: bool = True):
        self.enabled, self.asked, self.before = enabled, False, {}

    def __enter__(self) -> Interruption:
        if self.enabled and threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._ask) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.__exit__()
        self.asked = True


def leave_to_parent(_: int) -> None:
    """For a worker process: Ctrl-C reaches it too, but it is its parent's to say when there is nothing left to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

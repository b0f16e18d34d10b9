"""A session's two clocks."""

from __future__ import annotations

import time


class Clock:
    """A session's two clocks: CLOCK_BOOTTIME since its start (a laptop's sleep counts), and the wall, read once."""

    def __init__(self) -> None:
        self.began_ns = time.time_ns()
        self._boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def elapsed_ns(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - self._boot_ns

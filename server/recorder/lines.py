"""Reads of one stream -> lines and fragments. Pure: no descriptors, no clock, no decoding.

A read is cut at LF. What follows the last LF waits for the next read, which may bring the rest of the line; whoever
feeds says when that wait is over (``flush``: the next read would block, another event comes first, 20 ms have
passed). A line longer than 64 KiB is cut there.
"""

from __future__ import annotations

import io

from eventlog.codec import Read

MAX_LINE_BYTES = 65_536  # a Linux pipe's capacity: one read brings no longer line


class Cutter:
    """Collects reads until they are flushed. ``began_ns``: when the oldest byte held was read; -1: nothing held."""

    def __init__(self) -> None:
        self._reads: list[Read] = []
        self._tail: list[bytes] = []
        self._tail_bytes = 0
        self._tail_ns = 0
        self.held_bytes = 0
        self.began_ns = -1

    def feed(self, data: bytes, elapsed_ns: int) -> None:
        """Take one read, not empty, at *elapsed_ns*, which never falls."""
        if self.began_ns < 0:
            self.began_ns = elapsed_ns
        self.held_bytes += len(data)
        lines = io.BytesIO(data).readlines()  # splits at LF alone and keeps it; bytes.splitlines also splits at CR
        if self._tail:
            self._complete(lines, elapsed_ns)
        if lines and not lines[-1].endswith(b"\n"):
            self._tail = [lines.pop()]
            self._tail_bytes = len(self._tail[0])
            self._tail_ns = elapsed_ns
        if lines:
            self._emit(lines, elapsed_ns)
        if self._tail_bytes >= MAX_LINE_BYTES:
            self._end_tail()

    def flush(self) -> list[Read]:
        """All that is held, the unterminated tail too, as (elapsed_ns, lines) a read; [] where nothing is."""
        self._end_tail()
        reads, self._reads = self._reads, []
        self.held_bytes = 0
        self.began_ns = -1
        return reads

    def _complete(self, lines: list[bytes], elapsed_ns: int) -> None:
        """Join the tail with the first of *lines*, which is taken from it."""
        rest = lines.pop(0)
        room = MAX_LINE_BYTES - self._tail_bytes
        if len(rest) > room:
            # The 64 KiB are full: what is over begins in this read, so it goes on as a line of this read.
            lines.insert(0, rest[room:])
            rest = rest[:room]
        self._tail.append(rest)
        self._tail_bytes += len(rest)
        if rest.endswith(b"\n") or self._tail_bytes >= MAX_LINE_BYTES:
            self._end_tail()

    def _end_tail(self) -> None:
        if self._tail:
            self._emit([b"".join(self._tail)], self._tail_ns)
            self._tail = []
            self._tail_bytes = 0

    def _emit(self, lines: list[bytes], elapsed_ns: int) -> None:
        if self._reads and self._reads[-1][0] == elapsed_ns:
            self._reads[-1][1].extend(lines)
        else:
            self._reads.append((elapsed_ns, lines))

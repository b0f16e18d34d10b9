"""Shows a session's bytes as they are read, without ever holding up the recording.

Up to 1 MiB waits in memory for a slow terminal or pipe; a viewer that falls further behind reads what it missed from
the log, by its own byte count, and then goes on from memory. So nothing shown is ever missing, and nothing grows.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque

from eventlog.codec import OutputRun
from eventlog.events import Stream
from eventlog.store import Store
from tools.cli.terminal import write_all

HELD_BYTES = 1 << 20
RETRY_S = 0.01
# In a flood the viewer rests between two writes: woken for each read it cost the recording a third of its speed.
FLOOD_BYTES = 8 << 10
FLOOD_S = 0.004
DESCRIPTORS: dict[Stream, int] = {"pty": 1, "stdout": 1, "stderr": 2}


class Viewer:
    """One thread that writes to stdout and stderr. ``show`` never waits; ``finish`` waits until all is shown."""

    def __init__(self, store: Store, session: str) -> None:
        self._store = store
        self._session = session
        self._held: deque[tuple[int, Stream, bytes]] = deque()  # (offset of its first byte in the session, …)
        self._held_bytes = 0
        self._end = 0
        self._shown = 0
        self._log_after = store.session_start(session)
        self._log_offset = 0
        self._closed = False
        self._gone: set[int] = set()
        self._more = threading.Condition()
        self.last_byte: dict[int, bytes] = {}
        self.last_fd = 1
        self._thread = threading.Thread(target=self._run, name="viewer", daemon=True)
        self._thread.start()

    def show(self, stream: Stream, data: bytes) -> None:
        """Take one read. From the recorder's reading thread."""
        with self._more:
            self._held.append((self._end, stream, data))
            self._end += len(data)
            self._held_bytes += len(data)
            while self._held_bytes > HELD_BYTES:
                self._held_bytes -= len(self._held.popleft()[2])
            self._more.notify()

    def stop(self) -> None:
        """Show nothing more: the terminal is gone."""
        self._gone.update(DESCRIPTORS.values())

    def finish(self) -> None:
        """Wait until everything has been shown, or nobody is there to see it."""
        with self._more:
            self._closed = True
            self._more.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._more:
                self._more.wait_for(lambda: self._shown < self._end or self._closed)
                if self._shown >= self._end:
                    return
                held: list[tuple[int, Stream, bytes]] = []
                if self._held and self._held[0][0] <= self._shown:
                    held = list(self._held)
                    self._held.clear()
                    self._held_bytes = 0
            if not held:
                self._catch_up()
                continue
            before = self._shown
            for stream, pieces in itertools.groupby(held, key=lambda piece: piece[1]):
                group = list(pieces)
                data = b"".join(data for _, _, data in group)
                self._write(stream, data[self._shown - group[0][0] :])
            if self._shown - before >= FLOOD_BYTES and not self._closed:
                time.sleep(FLOOD_S)

    def _catch_up(self) -> None:
        """Show from the log what memory let go of, as soon as it is durable.

        The bytes of a session, all streams, stand in the log in the order in which they were read: one offset serves.
        """
        page = self._store.read(self._log_after, session=self._session)
        for record in page.records:
            if isinstance(record.event, OutputRun):
                data = b"".join(line for _, lines in record.event.reads for line in lines)
                offset = self._log_offset
                self._log_offset += len(data)
                self._write(record.event.stream, data[max(0, self._shown - offset) :])
        if page.position == self._log_after:
            time.sleep(RETRY_S)
        self._log_after = page.position

    def _write(self, stream: Stream, data: bytes) -> None:
        if not data:
            return
        fd = DESCRIPTORS[stream]
        self._shown += len(data)
        self.last_byte[fd], self.last_fd = data[-1:], fd
        try:
            if fd not in self._gone:
                write_all(fd, data)
        except OSError:  # closed by its reader, or hung up: the recording does not care
            self._gone.add(fd)

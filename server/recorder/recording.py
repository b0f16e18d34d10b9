"""What one session records, in order, from any thread: output from the pump, everything else from the event loop.

One lock a session makes the order: whoever records something first flushes the output that was read before it, so an
unterminated prompt stands before the answer to it, and stdout's before a later stderr. Nothing waits under the lock;
output asks the log for room before it is read, which is how a slow disk slows the child.
"""

from __future__ import annotations

import os
import threading

from eventlog.clock import Clock
from eventlog.codec import Record, StoredEvent, output_record
from eventlog.events import Input, Stream
from eventlog.store import Stored
from eventlog.writer import Writer
from server.recorder.lines import Cutter

RUN_BYTES = 60_000  # a record's output at the most, or 64 KiB more: a page of overflow wasted in sixteen
RUN_NS = 20_000_000  # and its age, under a stream that never pauses: visible within 50 ms of the read


class Recording:
    """Appends one session's events. *lines* and *bytes* count its output so far, all streams."""

    def __init__(self, writer: Writer, session: str, clock: Clock) -> None:
        self.session = session
        self.lines = 0
        self.bytes = 0
        self._writer = writer
        self._clock = clock
        self._lock = threading.Lock()
        self._cutters: dict[Stream, Cutter] = {}

    def output(self, stream: Stream, data: bytes) -> None:
        """Take one read of *stream*. It is held until ``flush``, 60 KB, 20 ms, or any other event."""
        with self._lock:
            elapsed_ns = self._clock.elapsed_ns()  # under the lock, so that no session's time ever falls
            cutter = self._cutters.get(stream)
            if cutter is None:
                cutter = self._cutters[stream] = Cutter()
            if len(self._cutters) > 1:
                for other, held in self._cutters.items():
                    if other != stream:
                        self._flush(other, held)
            cutter.feed(data, elapsed_ns)
            if cutter.held_bytes >= RUN_BYTES or elapsed_ns - cutter.began_ns >= RUN_NS:
                self._flush(stream, cutter)

    def flush(self) -> None:
        """The next read would block: what is held is all there is for now."""
        with self._lock:
            self._flush_all()

    def record(self, event: StoredEvent) -> None:
        """Queue *event* after all output read so far; it is on disk soon, and nobody waits."""
        with self._lock:
            self._offer([self._at_now(event)])

    def input(self, fd: int, data: bytes, source: str, *, masked: bool) -> int:
        """Write *data* to the child's *fd*, which does not block, and record what it accepted: its length.

        Raises:
            BlockingIOError: it accepts nothing now, and nothing was recorded.
            OSError: nobody will read it any more.
        """
        with self._lock:  # the echo of it is recorded after it, however fast it comes
            accepted = os.write(fd, data)
            if accepted:
                event = Input(None if masked else data[:accepted], accepted, masked, source)
                self._offer([self._at_now(event)])
        return accepted

    def last(self, *events: StoredEvent) -> list[Stored]:
        """*events* as records for someone who waits for them, after all output."""
        with self._lock:
            self._flush_all()
            return [self._at_now(event) for event in events]

    def _at_now(self, event: StoredEvent) -> Stored:
        self._flush_all()
        elapsed_ns = self._clock.elapsed_ns()
        return Stored(Record(self.session, self._clock.began_ns + elapsed_ns, elapsed_ns, event))

    def _offer(self, records: list[Stored]) -> None:
        self._writer.offer(records)

    def _flush_all(self) -> None:
        for stream, cutter in self._cutters.items():
            self._flush(stream, cutter)

    def _flush(self, stream: Stream, cutter: Cutter) -> None:
        held = cutter.held_bytes
        if not held:
            return
        reads = cutter.flush()
        self.bytes += held
        self.lines += sum(len(lines) - (not lines[-1].endswith(b"\n")) for _, lines in reads)
        self._offer([Stored(output_record(self.session, self._clock.began_ns, stream, reads))])

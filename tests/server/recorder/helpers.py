"""What the recorder's tests share: a log with one session and a pump, and ways to look at what it holds by now."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from eventlog.clock import Clock
from eventlog.decisions import start
from eventlog.events import Input, Output, Recorded, SessionStarted, Stream
from eventlog.store import Store
from eventlog.verify import verify
from eventlog.writer import Writer
from server.recorder.pump import Pump, Source
from server.recorder.recording import Recording

PATIENCE_S = 30.0  # a failing test ends; a passing one never waits for it


def wait_until(condition: Callable[[], object], why: str, timeout_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {why}"
        time.sleep(0.0005)


class Desk:
    """A recorder without children: what is written to a descriptor it reads ends up in the log.

    ``events`` reads the log as any other reader does, on from where it was; ``seen`` keeps them all.
    """

    def __init__(self, directory: Path) -> None:
        self.store = Store(directory)
        self.writer = Writer(self.store)
        self.clock = Clock()
        chosen: list[str] = []
        started = SessionStarted("desk", ["desk"], "/", "pipe", 80, 24, "host", {}, "1-nobody", "cli")
        self.writer.append(start(started, self.clock.began_ns, chosen))
        self.session = chosen[-1]
        self.recording = Recording(self.writer, self.session, self.clock)
        self.pump = Pump(self.writer)
        self.reads: list[tuple[float, Stream, bytes]] = []  # every read(2), with the time it was made known
        self.seen: list[Recorded] = []
        self._ends: list[threading.Event] = []
        self._after = 0

    def record(self, fd: int, stream: Stream) -> threading.Event:
        """Read *fd* to its end, which sets the event that is returned."""
        ended = threading.Event()
        self._ends.append(ended)

        def show(stream: Stream, data: bytes) -> None:
            self.reads.append((time.monotonic(), stream, data))

        self.pump.add(Source(fd, stream, self.recording, show, ended.set))
        return ended

    @contextmanager
    def pipe(self, stream: Stream) -> Iterator[int]:
        """A pipe that is recorded: its writing end, open as long as the block runs."""
        ours, theirs = os.pipe()
        ended = self.record(ours, stream)
        try:
            yield theirs
        finally:
            os.close(theirs)
            assert ended.wait(PATIENCE_S), f"the end of {stream} was not seen"
            os.close(ours)

    def events(self) -> list[Recorded]:
        """All events a reader of the log sees now."""
        while True:
            page = self.store.read(self._after)
            self.seen += [event for record in page.records for event in record.events()]
            if page.position == self._after:
                return self.seen
            self._after = page.position

    def settled(self) -> list[Recorded]:
        """All events, once everything read so far is on disk."""
        self.recording.flush()
        self.writer.append([])
        return self.events()

    def lines(self, stream: Stream | None = None) -> list[bytes]:
        return [e.event.data for e in self.seen if isinstance(e.event, Output) and stream in (None, e.event.stream)]

    def bytes(self, stream: Stream | None = None) -> bytes:
        return b"".join(self.lines(stream))

    def kinds(self) -> list[tuple[str, bytes | None]]:
        """("stdout", data) or ("input", data) of each, in order."""
        return [
            (e.event.stream, e.event.data) if isinstance(e.event, Output) else ("input", e.event.data)
            for e in self.seen
            if isinstance(e.event, Output | Input)
        ]

    def close(self) -> None:
        self.pump.close()
        self.writer.close()
        self.store.close()
        assert self.pump.error is None


@contextmanager
def desk(directory: Path) -> Iterator[Desk]:
    """A desk whose log keeps every promise at the end of the block."""
    at = Desk(directory)
    try:
        yield at
    finally:
        at.close()
    assert verify(directory) == []


def descriptors() -> set[int]:
    """What this process has open."""
    names = os.listdir("/proc/self/fd")  # the descriptor of this very listing is among them
    return {int(name) for name in names if os.path.lexists(f"/proc/self/fd/{name}")}

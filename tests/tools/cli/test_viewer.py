"""What ``steno run`` shows: every byte, in order, however slow the terminal is, and never at the recording's cost."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from eventlog.clock import Clock
from eventlog.decisions import start
from eventlog.events import SessionStarted, Stream
from eventlog.store import Store
from eventlog.writer import Writer
from server.recorder.recording import Recording
from tools.cli import viewer as viewer_module
from tools.cli.viewer import HELD_BYTES, Viewer

PATIENCE_S = 30.0
PIECE = 60_000


class Reader:
    """The other side of a descriptor that is shown to: reads when it is told to."""

    def __init__(self) -> None:
        self.fd, self.shown_to = os.pipe()
        self.seen = b""
        self._left = False
        self._may_read = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        self._may_read.wait()
        while not self._left and (data := os.read(self.fd, 1 << 20)):
            self.seen += data
        if not self._left:
            os.close(self.fd)

    def read(self) -> None:
        self._may_read.set()

    def leave(self) -> None:
        """Go away without having read anything, as ``head`` does when it has its line."""
        self._left = True
        os.close(self.fd)

    def all(self) -> bytes:
        """All that was shown, once nothing more is."""
        os.close(self.shown_to)
        self.read()
        self._thread.join(PATIENCE_S)
        return self.seen


class Session:
    """A session being recorded and shown: ``say`` is one read of its output."""

    def __init__(self, directory: Path) -> None:
        self.store = Store(directory)
        self.writer = Writer(self.store)
        clock = Clock()
        chosen: list[str] = []
        started = SessionStarted("a", ["a"], "/", "pipe", 80, 24, "host", {}, "1-x", "cli")
        self.writer.append(start(started, clock.began_ns, chosen))
        self.recording = Recording(self.writer, chosen[-1], clock)
        self.viewer = Viewer(self.store, chosen[-1])

    def say(self, data: bytes, stream: Stream = "stdout") -> None:
        self.writer.wait_for_room()
        self.recording.output(stream, data)
        self.viewer.show(stream, data)

    def finish(self) -> None:
        self.recording.flush()
        finished = threading.Thread(target=self.viewer.finish, daemon=True)
        finished.start()
        finished.join(PATIENCE_S)
        assert not finished.is_alive(), "it waits for ever"

    def close(self) -> None:
        self.writer.close()
        self.store.close()


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    session = Session(tmp_path)
    yield session
    session.close()


@pytest.fixture
def readers(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Reader, Reader]]:
    """Of stdout and of stderr."""
    out, err = Reader(), Reader()
    descriptors = {"pty": out.shown_to, "stdout": out.shown_to, "stderr": err.shown_to}
    monkeypatch.setattr(viewer_module, "DESCRIPTORS", descriptors)
    yield out, err
    for reader in (out, err):
        reader.read()


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_each_stream_is_shown_on_its_own_descriptor_as_it_comes(
    session: Session, readers: tuple[Reader, Reader]
) -> None:
    out, err = readers
    out.read()
    err.read()
    session.say(b"Continue? ")
    wait_until(lambda: out.seen == b"Continue? ")
    session.say(b"warning\n", "stderr")
    wait_until(lambda: err.seen == b"warning\n")
    session.finish()

    assert (out.all(), err.all()) == (b"Continue? ", b"warning\n")
    assert (session.viewer.last_byte, session.viewer.last_fd) == (
        {out.shown_to: b" ", err.shown_to: b"\n"},
        err.shown_to,
    )


def test_a_viewer_that_fell_megabytes_behind_misses_nothing(session: Session, readers: tuple[Reader, Reader]) -> None:
    """It goes from memory to the log and back to memory, at both streams' own borders."""
    out, err = readers
    said: dict[Stream, bytes] = {"stdout": b"", "stderr": b""}

    def flood(pieces: int) -> None:
        for number in range(pieces):
            stream: Stream = "stderr" if number % 7 == 3 else "stdout"
            data = b"%06d " % number + os.urandom(PIECE - number)
            session.say(data, stream)
            said[stream] += data

    flood(5 * HELD_BYTES // PIECE)
    out.read()
    err.read()
    wait_until(lambda: len(out.seen) + len(err.seen) == session.viewer._end)
    session.say(b"from memory again\n")
    said["stdout"] += b"from memory again\n"
    flood(3 * HELD_BYTES // PIECE)
    session.finish()

    assert out.all() == said["stdout"]
    assert err.all() == said["stderr"]


def test_showing_never_waits_and_holds_no_more_than_a_mebibyte(
    session: Session, readers: tuple[Reader, Reader]
) -> None:
    out, err = readers
    slowest = 0.0
    for _ in range(200):
        session.recording.output("stdout", bytes(PIECE))
        session.writer.wait_for_room()
        began = time.monotonic()
        session.viewer.show("stdout", bytes(PIECE))
        slowest = max(slowest, time.monotonic() - began)
        assert session.viewer._held_bytes <= HELD_BYTES

    assert slowest < 1.0
    out.read()
    session.finish()
    assert len(out.all()) == 200 * PIECE
    err.all()


def test_a_reader_that_leaves_ends_its_own_showing_only(session: Session, readers: tuple[Reader, Reader]) -> None:
    out, err = readers
    out.leave()
    err.read()
    for _ in range(3 * HELD_BYTES // PIECE):
        session.say(bytes(PIECE))
    session.say(b"still here\n", "stderr")
    session.finish()

    assert err.all() == b"still here\n"
    os.close(out.shown_to)


def test_a_showing_that_is_stopped_shows_nothing_more_and_ends(
    session: Session, readers: tuple[Reader, Reader]
) -> None:
    out, err = readers
    out.read()
    session.say(b"before\n")
    wait_until(lambda: out.seen == b"before\n")
    session.viewer.stop()
    for _ in range(3 * HELD_BYTES // PIECE):
        session.say(bytes(PIECE))
    session.finish()

    assert (out.all(), err.all()) == (b"before\n", b"")


def test_a_session_that_said_nothing_is_finished_at_once(session: Session, readers: tuple[Reader, Reader]) -> None:
    session.finish()
    session.finish()

    assert [reader.all() for reader in readers] == [b"", b""]
    assert session.viewer.last_byte == {}


def test_a_descriptor_that_does_not_block_gets_everything(session: Session, readers: tuple[Reader, Reader]) -> None:
    """Someone else may have made it so: a terminal's descriptor is shared by all who have it open."""
    out, err = readers
    os.set_blocking(out.shown_to, False)
    session.say(bytes(PIECE) * 5)
    out.read()
    session.finish()

    assert out.all() == bytes(PIECE) * 5
    err.all()

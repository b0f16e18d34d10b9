"""Reading: real pipes and terminals, a real log, and how soon a reader of that log sees what was written."""

from __future__ import annotations

import os
import statistics
import threading
import time
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import eventlog.writer
from eventlog.events import Input
from server.recorder.pump import Pump, Source
from server.recorder.recording import Recording
from tests.server.recorder.helpers import PATIENCE_S, Desk, desk, wait_until

VISIBLE_S = 0.050  # the contract's; compared with a median, for a shared machine has slow moments


@contextmanager
def terminal(at: Desk) -> Iterator[tuple[int, int]]:
    """A terminal that is recorded: (master, slave)."""
    master, slave = os.openpty()
    ended = at.record(master, "pty")
    try:
        yield master, slave
    finally:
        os.close(slave)
        assert ended.wait(PATIENCE_S), "the terminal's end of file (EIO) was not seen"
        os.close(master)


def write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def seconds_until_visible(at: Desk, data: bytes) -> float:
    """How long a reader of the log waits for output that ends in *data*."""
    began = time.monotonic()
    wait_until(lambda: at.events() and at.bytes().endswith(data), f"{data!r} is visible")
    return time.monotonic() - began


# -- how soon ------------------------------------------------------------------------------------------------------


def test_a_prompt_without_newline_is_visible_within_50_ms(tmp_path: Path) -> None:
    with desk(tmp_path) as at, at.pipe("stdout") as stdout:
        waits = []
        for number in range(15):
            os.write(stdout, b"Continue? [y/N] %d " % number)
            waits.append(seconds_until_visible(at, b"[y/N] %d " % number))

        assert statistics.median(waits) <= VISIBLE_S
        assert at.lines() == [b"Continue? [y/N] %d " % number for number in range(15)]


def test_a_spinner_is_visible_frame_by_frame(tmp_path: Path) -> None:
    """Thirty milliseconds a frame: each is an event, seen before the next is drawn."""
    frames = ["\r⠋ Thinking", "\r⠙ Thinking", "\r⠹ Thinking", "\r⠸ Thinking"] * 4
    with desk(tmp_path) as at, terminal(at) as (_, slave):
        waits = []
        for frame in frames:
            due = time.monotonic() + 0.030
            os.write(slave, frame.encode())
            waits.append(seconds_until_visible(at, frame.encode()))
            time.sleep(max(0.0, due - time.monotonic()))

        assert at.lines() == [frame.encode() for frame in frames]
        assert statistics.median(waits) <= 0.030


@pytest.mark.parametrize("data", [b"x" * 97, b"a line of words\n"], ids=["without line ends", "in lines"])
def test_a_stream_that_never_pauses_is_visible_within_50_ms_of_each_read(tmp_path: Path, data: bytes) -> None:
    """Samples of the log's session table, written with the events: how old is the oldest read that is not in it yet?"""
    stop = threading.Event()

    def flood(fd: int) -> None:
        while not stop.is_set():
            write_all(fd, data * 40)

    with desk(tmp_path) as at, at.pipe("stdout") as stdout:
        flooding = threading.Thread(target=flood, args=(stdout,))
        flooding.start()
        try:
            ages, visible, first, known = [], 0, 0, 0
            until = time.monotonic() + 1.0
            while time.monotonic() < until:
                now = time.monotonic()
                row = at.store.session(at.session)
                assert row is not None
                visible = row.bytes
                while first < len(at.reads) and known + len(at.reads[first][2]) <= visible:
                    known += len(at.reads[first][2])
                    first += 1
                ages.append(max(0.0, now - at.reads[first][0]) if first < len(at.reads) else 0.0)
                time.sleep(0.002)
        finally:
            stop.set()
            flooding.join(PATIENCE_S)

        assert visible > 100_000
        assert statistics.median(ages) <= VISIBLE_S


# -- in which order ------------------------------------------------------------------------------------------------


def test_a_prompt_on_stdout_stands_before_the_line_on_stderr_that_came_later(tmp_path: Path) -> None:
    with desk(tmp_path) as at, at.pipe("stdout") as stdout, at.pipe("stderr") as stderr:
        for number in range(20):
            os.write(stdout, b"Name? ")
            wait_until(lambda n=number: len(at.reads) == 2 * n + 1, "the prompt is read")  # type: ignore[misc]
            os.write(stderr, b"warning\n")
            wait_until(lambda n=number: len(at.reads) == 2 * n + 2, "the warning is read")  # type: ignore[misc]
        at.settled()

        assert at.kinds() == [("stdout", b"Name? "), ("stderr", b"warning\n")] * 20


def test_input_stands_before_its_echo(tmp_path: Path) -> None:
    with desk(tmp_path) as at, terminal(at) as (master, _):
        for number in range(100):
            at.recording.input(master, b"key %d\n" % number, "terminal", masked=False)
        wait_until(lambda: at.events() and at.bytes().endswith(b"key 99\r\n"), "the last echo is visible")

        inputs = echoes = 0
        for kind, data in at.kinds():
            if kind == "input":
                inputs += 1
            else:
                assert data is not None
                echoes += data.count(b"\n")
            assert echoes <= inputs
        assert (inputs, echoes) == (100, 100)


def test_positions_and_times_rise_while_keys_are_typed_into_a_flood(tmp_path: Path) -> None:
    """``desk`` verifies the log: no time falls, and the totals are those of the events."""
    with desk(tmp_path) as at, terminal(at) as (master, slave):
        tty.setraw(slave)  # no echo: what is read is what was written
        flooding = threading.Thread(target=write_all, args=(slave, b"a line of the flood\n" * 20_000))
        flooding.start()
        typed = 0
        while flooding.is_alive():
            typed += at.recording.input(master, b"k", "terminal", masked=False)
            time.sleep(0.0005)
        flooding.join()
        wait_until(lambda: at.events() and len(at.bytes()) == 400_000, "all of the flood is visible")

        assert at.bytes() == b"a line of the flood\n" * 20_000
        assert sum(isinstance(e.event, Input) for e in at.seen) == typed > 0
        assert [e.elapsed_ns for e in at.seen] == sorted(e.elapsed_ns for e in at.seen)


def test_two_floods_and_a_whisper_share_the_thread(tmp_path: Path) -> None:
    """A descriptor's turn ends after 256 KiB: who says little is heard beside those who shout."""
    with desk(tmp_path) as at, at.pipe("stdout") as stdout, at.pipe("stderr") as stderr:
        whispers, theirs = os.pipe()
        other = Recording(at.writer, at.session, at.clock)
        heard: list[bytes] = []
        ended = threading.Event()
        at.pump.add(Source(whispers, "pty", other, lambda stream, data: heard.append(data), ended.set))
        floods = [threading.Thread(target=write_all, args=(fd, b"shout\n" * 500_000)) for fd in (stdout, stderr)]
        for flood in floods:
            flood.start()
        os.write(theirs, b"psst")
        wait_until(lambda: heard, "the whisper is heard")
        still_shouting = any(flood.is_alive() for flood in floods)
        os.close(theirs)
        for flood in floods:
            flood.join(PATIENCE_S)
        assert ended.wait(PATIENCE_S)
        os.close(whispers)

        assert heard == [b"psst"]
        assert still_shouting


# -- what a slow disk does -----------------------------------------------------------------------------------------


@pytest.fixture
def small_queue(monkeypatch: pytest.MonkeyPatch) -> int:
    """Four mebibytes wait in memory as a rule; with fewer the same happens sooner."""
    monkeypatch.setattr(eventlog.writer, "QUEUE_BYTES", 256 << 10)
    monkeypatch.setattr(eventlog.writer, "BATCH_BYTES", 128 << 10)
    return 256 << 10


def slow(at: Desk, before_commit: Callable[[], object]) -> None:
    append = at.store.append

    def slow_append(*args: object) -> object:
        before_commit()
        return append(*args)  # type: ignore[arg-type]

    at.store.append = slow_append  # type: ignore[assignment, method-assign]


def test_behind_a_disk_that_stands_still_the_child_waits_and_nothing_is_lost(tmp_path: Path, small_queue: int) -> None:
    data = b"".join(b"%07d a line that nobody must lose\n" % number for number in range(60_000))
    disk = threading.Event()
    written = 0

    def child(fd: int) -> None:
        nonlocal written
        for begin in range(0, len(data), 4_096):
            write_all(fd, data[begin : begin + 4_096])
            written += len(data[begin : begin + 4_096])

    with desk(tmp_path) as at, at.pipe("stdout") as stdout:
        slow(at, disk.wait)
        writing = threading.Thread(target=child, args=(stdout,))
        writing.start()
        wait_until(lambda: not at.writer.wait_for_room(0.0), "the queue is full")
        before = -1
        while written != before:  # it comes to a stop
            before = written
            time.sleep(0.1)
        stopped_at, queued = written, at.writer.statistics().queued_bytes

        disk.set()
        writing.join(PATIENCE_S)
        assert not writing.is_alive()
        wait_until(lambda: at.events() and len(at.bytes()) == len(data), "all is recorded")

        assert at.bytes() == data
        # What waited: the log's queue, a read and a run on top of it, and the pipe itself.
        assert stopped_at <= small_queue + 3 * 65_536 + 65_536
        assert queued <= small_queue + 3 * 65_536


def test_memory_is_bounded_while_the_child_is_faster_than_the_disk(tmp_path: Path, small_queue: int) -> None:
    most = 0
    with desk(tmp_path) as at, at.pipe("stdout") as stdout:

        def look() -> None:
            nonlocal most
            most = max(most, at.writer.statistics().queued_bytes)
            time.sleep(0.02)

        slow(at, look)
        write_all(stdout, b"faster than the disk\n" * 100_000)
        wait_until(lambda: at.events() and len(at.bytes()) == 2_100_000, "all is recorded")

        assert at.bytes() == b"faster than the disk\n" * 100_000
        assert small_queue / 4 < most <= small_queue + 3 * 65_536


# -- ends ----------------------------------------------------------------------------------------------------------


def test_what_lies_in_a_pipe_that_someone_keeps_open_is_read_before_it_is_finished(tmp_path: Path) -> None:
    with desk(tmp_path) as at:
        ours, theirs = os.pipe()
        os.write(theirs, b"last words")
        ended = threading.Event()
        source = Source(ours, "stdout", at.recording, lambda stream, data: None, ended.set)
        at.pump.add(source)
        at.pump.finish(source)
        assert ended.wait(PATIENCE_S)

        at.settled()
        assert at.bytes() == b"last words"
        os.close(theirs)
        os.close(ours)


def test_finishing_ends_although_the_holder_never_stops_writing(tmp_path: Path) -> None:
    with desk(tmp_path) as at:
        ours, theirs = os.pipe()
        stop = threading.Event()

        def flood() -> None:
            while not stop.is_set():
                try:
                    os.write(theirs, b"and another thing\n" * 100)
                except BrokenPipeError:
                    return

        flooding = threading.Thread(target=flood)
        flooding.start()
        ended = threading.Event()
        source = Source(ours, "stdout", at.recording, lambda stream, data: None, ended.set)
        at.pump.add(source)
        at.pump.finish(source)
        assert ended.wait(PATIENCE_S)
        os.close(ours)
        stop.set()
        flooding.join(PATIENCE_S)
        os.close(theirs)


def test_a_failure_of_the_thread_is_told_to_whoever_waits_for_an_end(tmp_path: Path) -> None:
    """Nobody waits for ever: the source ends, and the pump has the error."""

    class Broken(Recording):
        def output(self, stream: object, data: bytes) -> None:
            raise ZeroDivisionError

    with desk(tmp_path) as at:
        unheard: list[threading.ExceptHookArgs] = []
        before, threading.excepthook = threading.excepthook, unheard.append
        try:
            pump = Pump(at.writer)
            ours, theirs = os.pipe()
            ended = threading.Event()
            broken = Broken(at.writer, at.session, at.clock)
            pump.add(Source(ours, "stdout", broken, lambda stream, data: None, ended.set))
            os.write(theirs, b"x")
            assert ended.wait(PATIENCE_S)
            pump.close()
        finally:
            threading.excepthook = before
        assert isinstance(pump.error, ZeroDivisionError)
        assert [args.exc_type for args in unheard] == [ZeroDivisionError]
        os.close(ours)
        os.close(theirs)

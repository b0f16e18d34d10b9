"""The order of one session's events, whoever records them from whatever thread."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from eventlog.events import Marker, Resized
from server.recorder.recording import RUN_BYTES, RUN_NS
from tests.server.recorder.helpers import desk, wait_until


def test_a_prompt_on_stdout_stands_before_a_later_line_on_stderr(tmp_path: Path) -> None:
    with desk(tmp_path) as at:
        at.recording.output("stdout", b"Name? ")
        at.recording.output("stderr", b"warning\n")
        at.recording.output("stdout", b"Ada\n")
        at.settled()

        assert at.kinds() == [("stdout", b"Name? "), ("stderr", b"warning\n"), ("stdout", b"Ada\n")]


@pytest.mark.parametrize("event", [Marker("here", "me"), Resized(100, 30, "terminal")])
def test_what_was_read_before_any_other_event_stands_before_it(tmp_path: Path, event: Marker | Resized) -> None:
    with desk(tmp_path) as at:
        at.recording.output("stdout", b"unfinished")
        at.recording.record(event)
        at.recording.output("stdout", b" line\n")

        assert [type(e.event).__name__ for e in at.settled()[1:]] == ["Output", type(event).__name__, "Output"]


def test_input_stands_between_the_prompt_and_what_the_child_says_next(tmp_path: Path) -> None:
    child, ours = os.pipe()
    with desk(tmp_path) as at:
        at.recording.output("pty", b"Continue? ")
        assert at.recording.input(ours, b"y\n", "terminal", masked=False) == 2
        at.recording.output("pty", b"y\r\n")
        at.settled()

        assert at.kinds() == [("pty", b"Continue? "), ("input", b"y\n"), ("pty", b"y\r\n")]
        assert os.read(child, 10) == b"y\n"
    os.close(child)
    os.close(ours)


def test_masked_input_is_recorded_as_its_length(tmp_path: Path) -> None:
    child, ours = os.pipe()
    with desk(tmp_path) as at:
        at.recording.input(ours, b"hunter2\n", "terminal", masked=True)
        [_, typed] = at.settled()

        assert (typed.event.data, typed.event.length, typed.event.masked) == (None, 8, True)  # type: ignore[union-attr]
        assert os.read(child, 10) == b"hunter2\n"
    os.close(child)
    os.close(ours)
    assert b"hunter2" not in b"".join(path.read_bytes() for path in tmp_path.rglob("data.mdb"))


def test_only_what_the_child_accepted_is_recorded_as_input(tmp_path: Path) -> None:
    child, ours = os.pipe()
    os.set_blocking(ours, False)
    with desk(tmp_path) as at:
        accepted = at.recording.input(ours, b"x" * 100_000, "stdin", masked=False)
        assert 0 < accepted < 100_000
        with pytest.raises(BlockingIOError):
            at.recording.input(ours, b"more", "stdin", masked=False)

        [_, typed] = at.settled()
        assert (typed.event.length, len(typed.event.data)) == (accepted, accepted)  # type: ignore[union-attr, arg-type]
    os.close(child)
    os.close(ours)


def test_output_that_never_pauses_is_let_go_by_size_and_by_age(tmp_path: Path) -> None:
    with desk(tmp_path) as at:
        at.recording.output("stdout", b"x" * (RUN_BYTES - 1))
        assert at.recording.bytes == 0
        at.recording.output("stdout", b"x")
        assert at.recording.bytes == RUN_BYTES

        at.recording.output("stdout", b"young")
        began_ns = at.clock.elapsed_ns()
        wait_until(lambda: at.clock.elapsed_ns() - began_ns > RUN_NS, "20 ms")
        at.recording.output("stdout", b"old")
        assert at.recording.bytes == RUN_BYTES + len(b"youngold")


def test_lines_and_bytes_count_every_stream(tmp_path: Path) -> None:
    with desk(tmp_path) as at:
        at.recording.output("stdout", b"one\ntwo\nthree")
        at.recording.output("stderr", b"\n\n")
        at.recording.output("stdout", b"!\n")
        at.settled()

        assert (at.recording.lines, at.recording.bytes) == (5, len(b"one\ntwo\nthree\n\n!\n"))
        row = at.store.session(at.session)
        assert row is not None
        assert (row.lines, row.bytes) == (at.recording.lines, at.recording.bytes)


def test_no_time_falls_and_no_byte_is_lost_when_threads_record_at_once(tmp_path: Path) -> None:
    """``desk`` verifies the log: elapsed never falling, lines being lines, totals the fold of the events."""
    child, ours = os.pipe()
    with desk(tmp_path) as at:

        def write(stream: str, data: bytes) -> None:
            for _ in range(400):
                at.recording.output(stream, data)  # type: ignore[arg-type]

        def mark() -> None:
            for number in range(200):
                at.recording.record(Marker(str(number), "me"))
                at.recording.input(ours, b"k", "terminal", masked=False)

        threads = [
            threading.Thread(target=write, args=("stdout", b"out, no line end ")),
            threading.Thread(target=write, args=("stderr", b"a line\nand a bit")),
            threading.Thread(target=mark),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        at.settled()

        assert at.bytes("stdout") == b"out, no line end " * 400
        assert at.bytes("stderr") == b"a line\nand a bit" * 400
        assert [e.event.label for e in at.seen if isinstance(e.event, Marker)] == [str(n) for n in range(200)]
        assert [e.elapsed_ns for e in at.seen] == sorted(e.elapsed_ns for e in at.seen)
    os.close(child)
    os.close(ours)

"""``steno replay`` without a terminal: the bytes, the window, the descriptors; eventlog/replay.py has the timing."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from eventlog.events import Marker, StateChanged, Stream
from eventlog.jsonform import rfc3339
from eventlog.store import Store
from tests.eventlog.helpers import append, stored_run
from tests.tools.cli.conftest import Steno
from tests.tools.cli.test_sessions import RUNNING, STARTED_NS, S, exited, record

MS = 1_000_000


def spoken(home: Path, *said: tuple[float, bytes, Stream]) -> str:
    """A session that said each thing at its second."""
    session = record(home, "claude", RUNNING)
    with Store(home / "log") as store:
        append(store, session, Marker("not shown", "me"), elapsed_ns=1 * S)
        for at_s, data, stream in said:
            store.append([stored_run(session, (round(at_s * S), [data]), stream=stream)])
        append(store, session, exited()[-1], elapsed_ns=round(said[-1][0] * S))
    return session


FOUR: list[tuple[float, bytes, Stream]] = [
    (1.0, b"one ", "pty"),
    (2.0, b"two\r\n", "pty"),
    (3.5, b"\xff\x00three", "pty"),
    (90.0, b"four\n", "pty"),
]
ALL = b"one two\r\n\xff\x00threefour\n"


@pytest.mark.parametrize("words", [["--speed", "max"], ["--speed", "1000"], ["--idle-limit", "0"]])
def test_it_is_byte_for_byte_what_the_child_wrote(steno: Steno, words: list[str]) -> None:
    spoken(steno.home, *FOUR)

    assert steno("replay", "claude", *words) == (0, ALL, "")


@pytest.mark.parametrize("speed", ["max", "1000"])
def test_each_stream_goes_where_it_went(steno: Steno, speed: str) -> None:
    spoken(steno.home, (1, b"out ", "stdout"), (2, b"err ", "stderr"), (3, b"out", "stdout"), (4, b"err", "stderr"))

    assert steno("replay", "claude", "--speed", speed) == (0, b"out out", "err err")


@pytest.mark.parametrize("speed", ["max", "1000"])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--from", "2"], b"two\r\n\xff\x00threefour\n"),
        (["--from", "2.5", "--to", "10"], b"\xff\x00three"),
        (["--to", "2"], b"one two\r\n"),
        (["--from", rfc3339(STARTED_NS + 2 * S), "--to", rfc3339(STARTED_NS + 3500 * MS)], b"two\r\n\xff\x00three"),
        (["--from", "1m"], b"four\n"),  # before its end
        (["--from", "91"], b""),
        (["--from", "5", "--to", "4"], b""),
    ],
)
def test_a_window_of_it(steno: Steno, speed: str, words: list[str], expected: bytes) -> None:
    spoken(steno.home, *FOUR)

    assert steno("replay", "claude", "--speed", speed, *words) == (0, expected, "")


def test_it_takes_its_time(steno: Steno) -> None:
    """Ninety seconds at two hundred times the speed."""
    spoken(steno.home, *FOUR)
    began = time.monotonic()
    assert steno("replay", "claude", "--speed", "200").out == ALL

    assert 0.45 <= time.monotonic() - began < 5


def test_an_idle_limit_cuts_the_silences(steno: Steno) -> None:
    spoken(steno.home, *FOUR)
    began = time.monotonic()
    assert steno("replay", "claude", "--idle-limit", "0.1").out == ALL

    assert 0.4 <= time.monotonic() - began < 5


@pytest.mark.parametrize("words", [["--speed", "max"], ["--speed", "100"], ["--speed", "max", "--follow"]])
def test_a_session_that_has_ended_ends_also_when_it_is_followed(steno: Steno, words: list[str]) -> None:
    session = steno.run("--", "sh", "-c", "echo one; sleep 0.05; printf two")

    assert steno("replay", session, *words).out == b"one\ntwo"


def test_a_lost_session_ends(steno: Steno) -> None:
    record(steno.home, "claude", RUNNING)

    assert steno("replay", "claude", "--follow", "--speed", "100") == (0, b"", "")


def test_a_session_without_output_is_empty(steno: Steno) -> None:
    record(steno.home, "claude", StateChanged("starting", "failed", "no such thing"))

    assert steno("replay", "claude", "--speed", "100") == (0, b"", "")
    assert steno("replay", "claude", "--speed", "max") == (0, b"", "")


@pytest.mark.parametrize("mode", ["pty", "pipe"])
def test_a_megabyte_of_noise_comes_back(steno: Steno, tmp_path: Path, mode: str) -> None:
    data = os.urandom(1 << 20)
    (tmp_path / "noise").write_bytes(data)
    done = steno(
        "run", "--quiet", "--mode", mode, "--", "sh", "-c", f"stty raw -echo 2>/dev/null; cat {tmp_path}/noise"
    )

    assert steno("replay", done.session, "--speed", "max").out == data


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--speed", "0"], "'0' is no speed: 0.1 to 1000, or max"),
        (["--speed", "1001"], "is no speed"),
        (["--speed", "fast"], "is no speed"),
        (["--speed", "nan"], "is no speed"),
        (["--speed", "-1"], "is no speed"),
        (["--idle-limit", "-1"], "is not a number of seconds"),
        (["--idle-limit", "nan"], "is not a number of seconds"),
        (["--idle-limit", "inf"], "is not a number of seconds"),
        (["--idle-limit", "short"], "is not a number of seconds"),
        (["--from", "the start"], "is not a place in a session"),
        (["--to", "-5"], "is not a place in a session"),
    ],
)
def test_words_that_cannot_be_are_refused_with_2(steno: Steno, words: list[str], said: str) -> None:
    spoken(steno.home, *FOUR)
    done = steno("replay", "claude", *words)

    assert (done.status, done.out, said in done.err) == (2, b"", True), done.err


def test_no_session_is_refused(steno: Steno) -> None:
    assert steno("replay").status == 2

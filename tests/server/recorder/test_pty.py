"""The facts about Linux terminals that the recorder stands on, each seen from the slave's side."""

from __future__ import annotations

import os
import signal
import termios
import tty
from collections.abc import Iterator

import pytest

from server.recorder.pty import (
    end_of_input,
    get_size,
    has_unread,
    is_canonical,
    open_pty,
    reads_secret,
    set_size,
)


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """(master, slave) of 100 by 30 cells."""
    master, path = open_pty(100, 30)
    slave = os.open(path, os.O_RDWR | os.O_NOCTTY)
    yield master, slave
    os.close(slave)
    os.close(master)


def without(slave: int, *flags: int) -> None:
    attributes = termios.tcgetattr(slave)
    for flag in flags:
        attributes[3] &= ~flag
    termios.tcsetattr(slave, termios.TCSANOW, attributes)


def test_a_terminal_has_its_size_before_anyone_looks(terminal: tuple[int, int]) -> None:
    assert os.get_terminal_size(terminal[1]) == os.terminal_size((100, 30))


def test_a_size_set_on_one_side_is_the_others(terminal: tuple[int, int]) -> None:
    set_size(terminal[0], 132, 43)

    assert get_size(terminal[1]) == (132, 43)


def test_what_is_no_terminal_or_says_nothing_has_no_size(terminal: tuple[int, int]) -> None:
    set_size(terminal[0], 0, 0)
    with open(os.devnull) as null:
        assert get_size(null.fileno()) is None
    assert get_size(terminal[1]) is None


def test_only_a_canonical_terminal_without_echo_reads_a_secret(terminal: tuple[int, int]) -> None:
    """getpass and sudo turn echo off alone; bash, vim and every full-screen program turn off canonical mode too."""
    master, slave = terminal
    assert not reads_secret(master)

    without(slave, termios.ECHO)
    assert reads_secret(master)

    without(slave, termios.ICANON)
    assert not reads_secret(master)


def test_the_end_of_input_is_the_terminals_own_key(terminal: tuple[int, int]) -> None:
    master, slave = terminal
    attributes = termios.tcgetattr(slave)
    attributes[6][termios.VEOF] = b"\x19"
    termios.tcsetattr(slave, termios.TCSANOW, attributes)

    assert end_of_input(master, at_line_start=True) == b"\x19"
    assert end_of_input(master, at_line_start=False) == b"\x19\x19"


@pytest.mark.parametrize("typed", [b"", b"a line\n", b"a line\nand more"])
def test_a_canonical_reader_gets_what_was_typed_and_then_the_end(terminal: tuple[int, int], typed: bytes) -> None:
    master, slave = terminal
    os.write(master, typed + end_of_input(master, at_line_start=not typed or typed.endswith(b"\n")))

    read = b""
    while data := os.read(slave, 100):
        read += data
    assert read == typed


def test_in_a_raw_terminal_the_end_is_ctrl_d_as_a_person_types_it(terminal: tuple[int, int]) -> None:
    tty.setraw(terminal[1])

    assert not is_canonical(terminal[0])
    assert end_of_input(terminal[0], at_line_start=False) == b"\x04"


def test_it_knows_whether_a_reader_would_get_something(terminal: tuple[int, int]) -> None:
    """An end that waits to be read counts; half a line of a canonical terminal does not."""
    master, slave = terminal
    assert not has_unread(master)
    os.write(master, b"half")
    assert not has_unread(master)
    os.write(master, b" and half\n")
    assert has_unread(master)
    os.read(slave, 100)
    assert not has_unread(master)
    os.write(master, b"\x04")
    assert has_unread(master)
    assert os.read(slave, 100) == b""
    assert not has_unread(master)


def test_looking_for_what_is_unread_leaves_no_descriptor_and_no_controlling_terminal(terminal: tuple[int, int]) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        has_unread(terminal[0])

    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(OSError, match=r"Inappropriate ioctl|No such device|not a tty"):
        os.tcgetpgrp(terminal[1])


def test_a_terminal_that_is_gone_has_no_modes() -> None:
    master, path = open_pty(80, 24)
    slave = os.open(path, os.O_RDWR | os.O_NOCTTY)
    os.close(master)
    try:
        assert not reads_secret(slave)
        assert not is_canonical(slave)
        assert end_of_input(slave, at_line_start=True) == b""
        assert get_size(slave) is None
    finally:
        os.close(slave)


def test_signals_of_the_terminal_are_not_sent_for_a_size_it_has(terminal: tuple[int, int]) -> None:
    seen: list[int] = []
    before = signal.signal(signal.SIGWINCH, lambda number, frame: seen.append(number))
    try:
        set_size(terminal[0], 100, 30)
    finally:
        signal.signal(signal.SIGWINCH, before)
    assert seen == []

"""This process' own terminal: raw or key-by-key while a block runs, and as it was on every way out."""

from __future__ import annotations

import atexit
import os
import signal
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# What a recorded program may have left on: alternate screen, hidden cursor, mouse, bracketed paste, colours, margins.
# The cursor stays where it is: 1047 does not restore it as 1049 does, and resetting the margins sends it home.
RESET = (
    b"\033[?1047l\033[?25h\033[?1000l\033[?1002l\033[?1003l\033[?1006l\033[?1004l\033[?2004l\033[?1l\033>\033[0m"
    b"\033[?7h\0337\033[r\0338"
)
CLEAR = b"\033c"  # RIS: a seek back draws the session again from its beginning


def in_foreground(fd: int) -> bool:
    """Whether reading or setting the terminal *fd* would not stop us (SIGTTIN, SIGTTOU)."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return True  # not our controlling terminal: it has no say in our jobs


@contextmanager
def raw(fd: int) -> Iterator[None]:
    """Every key goes through, also Ctrl-C: the child's own terminal makes of it what it will."""
    with _mode(fd, lambda: tty.setraw(fd, termios.TCSADRAIN)):
        yield


@contextmanager
def keys(fd: int) -> Iterator[None]:
    """Key by key, not echoed; Ctrl-C still interrupts."""
    with _mode(fd, lambda: tty.setcbreak(fd, termios.TCSADRAIN)):
        yield


@contextmanager
def _mode(fd: int, enter: Callable[[], object]) -> Iterator[None]:
    before = termios.tcgetattr(fd)

    def restore() -> None:
        try:
            termios.tcsetattr(fd, termios.TCSADRAIN, before)
        except termios.error:
            pass  # the terminal itself is gone

    def stop(number: int, frame: object) -> None:
        # SIGTSTP from outside: leave the terminal usable while stopped, take it again afterwards.
        restore()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, stop)
        enter()

    atexit.register(restore)
    suspended = signal.signal(signal.SIGTSTP, stop)
    try:
        enter()
        yield
    finally:
        signal.signal(signal.SIGTSTP, suspended)
        restore()
        atexit.unregister(restore)


def write_all(fd: int, data: bytes) -> None:
    """Write all of *data*, also where someone else made the descriptor non-blocking."""
    import select

    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [])

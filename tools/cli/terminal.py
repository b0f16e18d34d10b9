"""This process' own terminal: raw or key-by-key while a block runs, and as it was on every way out."""

from __future__ import annotations

import atexit
import os
import signal
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# What a recorded program may have left on: alternate screen, hidden cursor, mouse, bracketed paste, keyboard protocols,
# origin, insert and synchronised modes, character sets, colours, margins. The cursor stays where it is: 1047 does not
# restore it as 1049 does, and resetting the margins and origin sends it home, so it is saved around them.
RESET = (
    b"\033[?1047l\033[?25h\033[?1000;1002;1003;1004;1005;1006;1015l\033[?2004l\033[?2026l\033[?1l\033>\033[0m"
    b"\033[=0u\033[>4m\033[4l\033(B\033)B\017\033[?7h\0337\033[?6l\033[r\0338"
)
CLEAR = b"\033c"  # RIS: a seek back draws the session again from its beginning


def in_foreground(fd: int) -> bool:
    """Whether reading or setting the terminal *fd* would not stop us (SIGTTIN, SIGTTOU)."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return True  # not our controlling terminal: it has no say in our jobs


class Mode:
    """A terminal's settings for as long as a block runs: ``enter`` and ``leave`` may be called again in between."""

    def __init__(self, fd: int, enter: Callable[[int, int], object]) -> None:
        self._fd = fd
        self._enter = enter
        self._before = termios.tcgetattr(fd)

    def enter(self) -> None:
        """Take the terminal; where we are in the background this would stop us, so it is left alone."""
        try:
            if in_foreground(self._fd):
                self._enter(self._fd, termios.TCSADRAIN)
        except termios.error:
            pass  # the terminal itself is gone: a hang-up comes with SIGCONT, which takes us here

    def leave(self, *, flush: bool = False) -> None:
        """As it was; *flush* drops what it has answered meanwhile to the programs it showed."""
        try:
            if in_foreground(self._fd):
                termios.tcsetattr(self._fd, termios.TCSAFLUSH if flush else termios.TCSADRAIN, self._before)
        except termios.error:
            pass  # the terminal itself is gone

    def suspend(self) -> None:
        """Stop this process, with the terminal as it was meanwhile; returns when it goes on."""
        self.leave()
        os.kill(os.getpid(), signal.SIGSTOP)
        self.enter()


@contextmanager
def raw(fd: int) -> Iterator[Mode]:
    """Every key goes through, also Ctrl-C: the child's own terminal makes of it what it will."""
    with _held(Mode(fd, tty.setraw)) as mode:
        yield mode


@contextmanager
def keys(fd: int) -> Iterator[Mode]:
    """Key by key, not echoed; Ctrl-C still interrupts."""
    with _held(Mode(fd, tty.setcbreak), flush=True) as mode:
        yield mode


@contextmanager
def _held(mode: Mode, *, flush: bool = False) -> Iterator[Mode]:
    atexit.register(mode.leave)
    try:
        mode.enter()
        yield mode
    finally:
        mode.leave(flush=flush)
        atexit.unregister(mode.leave)


def write_all(fd: int, data: bytes) -> None:
    """Write all of *data*, also where someone else made the descriptor non-blocking."""
    import select

    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            select.select([], [fd], [])

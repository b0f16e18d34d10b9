"""What Linux pseudo-terminals need, found by trying: size before exec, EIO as end of file, who may see a password."""

from __future__ import annotations

import fcntl
import os
import select
import struct
import termios

# A line discipline in canonical mode takes 4,095 bytes a line and drops the rest (n_tty.c, N_TTY_BUF_SIZE).
_WINSIZE = struct.Struct("HHHH")
TIOCGPTPEER = 0x5441  # asm-generic/ioctls.h: opens the slave of a master; Python names it from 3.13 on
CTRL_D = b"\x04"


def open_pty(cols: int, rows: int) -> tuple[int, str]:
    """A new terminal of that size: its master's descriptor, and the path of its slave for the child to open."""
    master, slave = os.openpty()
    try:
        set_size(master, cols, rows)
        return master, os.ttyname(slave)
    except BaseException:
        os.close(master)
        raise
    finally:
        os.close(slave)


def set_size(fd: int, cols: int, rows: int) -> None:
    """Resize; the kernel sends SIGWINCH to the foreground process group where the size changed."""
    fcntl.ioctl(fd, termios.TIOCSWINSZ, _WINSIZE.pack(rows, cols, 0, 0))


def get_size(fd: int) -> tuple[int, int] | None:
    """(cols, rows) of the terminal behind *fd*; None where it is no terminal or says 0."""
    try:
        rows, cols, _, _ = _WINSIZE.unpack(fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(_WINSIZE.size)))
    except OSError:
        return None
    return (cols, rows) if cols and rows else None


def reads_secret(master: int) -> bool:
    """Whether what is typed now is a password: canonical with echo off, as getpass and sudo set it.

    Echo off alone says nothing: bash, vim and every full-screen program run so all the time, but not canonical.
    """
    try:
        local_modes = termios.tcgetattr(master)[3]
    except termios.error:
        return False
    return bool(local_modes & termios.ICANON) and not local_modes & termios.ECHO


def is_canonical(master: int) -> bool:
    try:
        return bool(termios.tcgetattr(master)[3] & termios.ICANON)
    except termios.error:
        return False


def end_of_input(master: int, *, at_line_start: bool) -> bytes:
    """What to type so that a canonical reader meets its end of file; in a raw terminal Ctrl-D, as a person would.

    VEOF hands over what waits; only on an empty line does the reader get nothing, which is the end (termios(3)).
    """
    try:
        attributes = termios.tcgetattr(master)
    except termios.error:
        return b""
    if not attributes[3] & termios.ICANON:
        return CTRL_D
    veof: bytes = attributes[6][termios.VEOF]
    return veof if at_line_start else veof * 2


def has_unread(master: int) -> bool:
    """Whether a reader of the terminal would get something at once: what was typed and not read, an end too."""
    try:
        slave = fcntl.ioctl(master, TIOCGPTPEER, os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False  # hung up
    try:
        poll = select.poll()  # select(2) ends at descriptor 1,023
        poll.register(slave, select.POLLIN)
        return any(event & select.POLLIN for _, event in poll.poll(0))
    finally:
        os.close(slave)

"""What a recorder owes the terminal it stands on: signals, keys, and a word when the log cannot be written.

It is at work before the log is opened and until it is closed, so that whoever waits on a full or stuck disk is told
why, and can leave.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator

import trio

from eventlog.log import EventLog
from server.recorder.pty import get_size
from server.recorder.session import LiveSession
from tools.cli.output import print_error
from tools.cli.terminal import Mode, in_foreground
from tools.cli.viewer import Viewer

READ_BYTES = 65_536
TO_THE_CHILD = (signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
SIGNALS = (*TO_THE_CHILD, signal.SIGHUP, signal.SIGWINCH, signal.SIGTSTP, signal.SIGCONT)
SLOW_COMMIT_S = 5.0
COMMIT_S = 1.0  # how long a stop waits for a commit to end


class Foreground:
    """``log``, ``live``, ``viewer`` and ``mode`` are set as they come to be."""

    def __init__(self) -> None:
        self.log: EventLog | None = None
        self.live: LiveSession | None = None
        self.viewer: Viewer | None = None
        self.mode: Mode | None = None
        self._continued = trio.Event()

    async def obey(self, signals: AsyncIterator[int]) -> None:
        """Do what signals say, until cancelled."""
        async for number in signals:
            if number == signal.SIGWINCH:
                self._resize()
            elif number == signal.SIGHUP:
                if self.viewer is not None:
                    self.viewer.stop()  # the terminal is gone: that ends the showing, never the session
            elif number == signal.SIGTSTP:
                self._suspend()
            elif number == signal.SIGCONT:
                self._continue()
            elif self.live is not None and self.live.child_runs:
                self.live.interrupt(signal.Signals(number))
            else:
                self._leave(number)

    def _resize(self) -> None:
        size = get_size(0) or get_size(1)
        if size is not None and self.live is not None:
            self.live.resize(*size, "terminal")

    def _suspend(self) -> None:
        """Stop, but never inside a commit, where every other recorder of the home would wait for us to go on."""
        writer = None if self.log is None or self.log.statistics() is None else self.log.writer
        if writer is None:
            self._stop()
            return
        with writer.between_commits(COMMIT_S) as held:
            if held:
                self._stop()

    def _stop(self) -> None:
        if self.mode is not None:
            self.mode.suspend()
        else:
            os.kill(os.getpid(), signal.SIGSTOP)

    def _continue(self) -> None:
        if self.mode is not None:
            self.mode.enter()  # `fg` may have brought us to the front for the first time
        self._continued.set()
        self._continued = trio.Event()

    def _leave(self, number: int) -> None:
        """There is no child to tell, and something keeps us: what is not on disk by now will not be."""
        if self.mode is not None:
            self.mode.leave()
        if self.live is None:
            print_error("interrupted before anything was started")
        elif not self.live.is_recorded:
            print_error(f"interrupted before the end of {self.live.session} was on disk")
        os._exit(128 + number)  # threads that wait for the disk or the terminal cannot be ended otherwise

    async def complain(self) -> None:
        """Say on stderr, once each time, that the log cannot be written: the child waits meanwhile."""
        told = False
        while True:
            await trio.sleep(1.0)
            statistics = self.log.statistics() if self.log is not None else None
            why = None
            if statistics is not None:
                slow = f"a commit has run {statistics.slow_s:.0f} s" if statistics.slow_s > SLOW_COMMIT_S else None
                why = statistics.failing or slow
            if why and not told:
                _tell(f"the log cannot be written: {why}; the program waits, nothing is lost")
            told = why is not None

    async def forward_input(self) -> None:
        """Give our stdin to the child, and its end too: a terminal's keys, or what is piped in."""
        live = self.live
        assert live is not None
        is_terminal = os.isatty(0)
        while is_terminal and not in_foreground(0):
            await self._continued.wait()
        while True:
            try:
                data = await _read_input()
            except OSError:
                if is_terminal:
                    return  # hung up
                break  # not readable, as nohup leaves it: there is no input, and the child learns that
            if not data:
                break
            if not is_terminal:
                await live.wait_for_room()  # keys are few, and Ctrl-C must act when the disk is full
            if not await live.type(data, "terminal" if is_terminal else "stdin"):
                return
        if not is_terminal or live.spec.mode == "pipe":
            await live.end_input()


async def _read_input() -> bytes:
    try:
        await trio.lowlevel.wait_readable(0)
    except PermissionError:
        await trio.lowlevel.checkpoint()  # a regular file: epoll refuses it, and reading it does not wait
    return os.read(0, READ_BYTES)


def _tell(message: str) -> None:
    try:
        print_error(message)
        if os.isatty(2):
            print(end="\r", file=sys.stderr, flush=True)  # a raw terminal's newline keeps the column
    except OSError:
        pass  # nobody reads it, which is no reason to end the recording

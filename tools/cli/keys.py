"""Keys that control a replay: bytes of a terminal -> names of keys, and what each does.

The terminal also *answers*: recorded output may ask it for its attributes or colours, and the answers arrive here,
between the keys. So escape sequences are parsed whole, and what is no key of ours is dropped.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import trio

from eventlog.replay import Replay
from tools.cli.terminal import Mode

SEEK_NS = 5_000_000_000
SPEEDS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1000.0)
ARROWS = {b"\033[C": "right", b"\033[D": "left", b"\033OC": "right", b"\033OD": "left"}
STRINGS = b"P]X^_"  # DCS OSC SOS PM APC: run to ST, OSC also to BEL (ECMA-48 section 5.6)


class Keys:
    """Incremental: a sequence may be cut anywhere."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[str]:
        """The names of keys in *data*: a character, or ``left`` and ``right``."""
        self._rest += data
        while self._rest:
            size = _length(self._rest)
            if size == 0:
                return
            key, self._rest = self._rest[:size], self._rest[size:]
            if size == 1:
                yield key.decode("latin-1")
            elif key in ARROWS:
                yield ARROWS[key]


def _length(data: bytes) -> int:
    """Of the key or sequence at the start of *data*; 0: it is not whole yet."""
    if data[0] != 0x1B:
        return 1
    if len(data) == 1:
        return 0
    if data[1] in STRINGS:
        ends = [end + size for mark, size in ((b"\033\\", 2), (b"\a", 1)) if (end := data.find(mark, 2)) >= 0]
        return min(ends, default=0)
    if data[1] == 0x4F:  # SS3 and one character
        return 3 if len(data) >= 3 else 0
    if data[1] != 0x5B:
        return 2
    if data[2:3] == b"M":  # a mouse report of the old kind: three bytes follow, and a press of its button is a space
        return 6 if len(data) >= 6 else 0
    for index, byte in enumerate(data[2:], 2):
        if 0x40 <= byte <= 0x7E:
            return index + 1
    return 0


async def control(replay: Replay) -> None:
    """Do what the keys on descriptor 0 say, until ``q`` or the end of input."""
    keys = Keys()
    while True:
        await trio.lowlevel.wait_readable(0)
        data = os.read(0, 4096)
        for key in keys.feed(data):
            if key == "q":
                replay.stop()
            elif key == " ":
                if replay.pace.paused:
                    replay.resume()
                else:
                    replay.pause()
            elif key == ".":
                if not replay.pace.paused:
                    replay.pause()
                replay.step()
            elif key in ("left", "right"):
                replay.seek(replay.elapsed_ns() + (SEEK_NS if key == "right" else -SEEK_NS))
            elif key in "+=-":
                replay.set_speed(_next_speed(replay.pace.speed, up=key != "-"))
        if not data:
            return


async def obey(
    mode: Mode, stop: Callable[[int], None], task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Leave the terminal as it was, whatever signal ends or stops this process; *stop* is told which."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP, signal.SIGCONT) as signals:
        task_status.started()
        async for number in signals:
            if number == signal.SIGTSTP:
                mode.suspend()
            elif number == signal.SIGCONT:
                mode.enter()
            else:
                stop(number)


def _next_speed(speed: float | None, *, up: bool) -> float:
    if speed is None:
        return SPEEDS[-1]
    if up:
        return next((s for s in SPEEDS if s > speed), SPEEDS[-1])
    return next((s for s in reversed(SPEEDS) if s < speed), SPEEDS[0])

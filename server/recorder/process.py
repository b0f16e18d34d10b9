"""One child on a PTY or on pipes: found, started, waited for.

``posix_spawn`` with ``setsid`` and a first file action that opens the slave by path makes it the child's controlling
terminal; ``start_new_session`` alone does not. CPython ignores SIGPIPE and SIGXFSZ, so they are set back to default.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import trio

from eventlog.events import Stream
from server.recorder.pty import open_pty

DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin"
Actions = Sequence[tuple[Any, ...]]
_RESET = [signal.SIGPIPE, signal.SIGXFSZ]


class SpawnError(Exception):
    """The child could not be started. *status* is the shell's: 127 not found, 126 found but not executable."""

    def __init__(self, argv: Sequence[str], status: int, reason: str) -> None:
        super().__init__(f"{argv[0]}: {reason}")
        self.argv = list(argv)
        self.status = status
        self.reason = reason


class Exit(NamedTuple):
    """How a child ended: one of *code* and *signal* ("SIGTERM" style); *status* as a shell has it, 128 + the signal.

    *rusage* is wait4's, in seconds and KiB.
    """

    code: int | None
    signal: str | None
    status: int
    rusage: dict[str, float]


class Process:
    """A running child. ``outputs``: descriptor of each stream to read; ``input_fd``: non-blocking, to write to."""

    def __init__(self, pid: int, outputs: dict[Stream, int], input_fd: int, held_fd: int | None) -> None:
        self.pid = pid
        self.outputs = outputs
        self.input_fd: int | None = input_fd
        self.is_pty = held_fd is not None
        self._held_fd = held_fd  # the terminal's other side, open here until the child has ended

    async def wait(self) -> Exit:
        """Wait for the child itself; its children and its output may go on."""
        fd = os.pidfd_open(self.pid)
        try:
            await trio.lowlevel.wait_readable(fd)
        finally:
            os.close(fd)
            self._let_go()
        _, status, usage = os.wait4(self.pid, 0)  # noqa: ASYNC222  # it has ended: this only collects it
        code = os.waitstatus_to_exitcode(status)
        rusage = {
            "user_s": usage.ru_utime,
            "system_s": usage.ru_stime,
            "max_rss_kib": usage.ru_maxrss,
            "major_faults": usage.ru_majflt,
            "voluntary_switches": usage.ru_nvcsw,
            "involuntary_switches": usage.ru_nivcsw,
        }
        if code < 0:
            return Exit(None, signal_name(-code), 128 - code, rusage)
        return Exit(code, None, code, rusage)

    def _let_go(self) -> None:
        # While nobody holds a terminal its master reads EIO, its end of file; but the child may close it and open it
        # again (sudo and ssh open /dev/tty), so until it has ended one who holds it is here.
        if self._held_fd is not None:
            os.close(self._held_fd)
            self._held_fd = None

    def send_signal(self, number: int) -> None:
        """To the terminal's foreground group, as its keys would, or to the child's own group."""
        try:
            group = os.tcgetpgrp(self.input_fd) if self.is_pty and self.input_fd is not None else self.pid
            os.killpg(group or self.pid, number)
        except (ProcessLookupError, PermissionError, OSError):
            pass  # it has just ended, which is what most signals are for

    def close_input(self) -> None:
        """End the child's standard input where it is a pipe."""
        if self.input_fd is not None and not self.is_pty:
            os.close(self.input_fd)
            self.input_fd = None

    def close(self) -> None:
        """Close all descriptors. A terminal's foreground group gets SIGHUP by it."""
        self.close_input()
        for fd in self.outputs.values():
            os.close(fd)
        self.input_fd = None


def spawn(
    argv: Sequence[str], *, cwd: str, env: Mapping[str, str], pty: bool, cols: int = 80, rows: int = 24
) -> Process:
    """Start *argv* in *cwd*, leader of a session of its own.

    Raises:
        SpawnError: not found, not executable, or *cwd* is not there.
    """
    ours: list[int] = []
    theirs: list[int] = []
    try:
        outputs: dict[Stream, int]
        held_fd = None
        if pty:
            input_fd, slave = open_pty(cols, rows)
            ours.append(input_fd)
            held_fd = os.open(slave, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
            ours.append(held_fd)
            outputs = {"pty": input_fd}
            actions = [(os.POSIX_SPAWN_OPEN, 0, slave, os.O_RDWR, 0), *((os.POSIX_SPAWN_DUP2, 0, n) for n in (1, 2))]
        else:
            child_in, input_fd = os.pipe2(os.O_CLOEXEC)
            stdout, child_out = os.pipe2(os.O_CLOEXEC)
            stderr, child_err = os.pipe2(os.O_CLOEXEC)
            theirs += [child_in, child_out, child_err]
            ours += [input_fd, stdout, stderr]
            outputs = {"stdout": stdout, "stderr": stderr}
            actions = [(os.POSIX_SPAWN_DUP2, fd, n) for n, fd in enumerate(theirs)]
        os.set_blocking(input_fd, False)
        pid = _spawn_in(cwd, list(argv), dict(env), actions)
    except BaseException as error:
        for fd in ours:
            os.close(fd)
        if isinstance(error, OSError):  # no terminal or descriptor is left, for instance
            raise SpawnError(argv, 126, error.strerror or str(error)) from error
        raise
    finally:
        for fd in theirs:
            os.close(fd)
    return Process(pid, outputs, input_fd, held_fd)


def _spawn_in(cwd: str, argv: list[str], env: dict[str, str], actions: Actions) -> int:
    # posix_spawn cannot change directory from Python, so for its millisecond this process does; nothing else here
    # uses relative paths. `env -C` would hide which of 126 and 127 it was.
    before = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            os.chdir(cwd)
        except OSError as error:
            raise SpawnError(argv, 126, f"cannot enter {cwd}: {error.strerror}") from error
        program = find_program(argv, env)
        try:
            return _posix_spawn(program, argv, env, actions)
        except OSError as error:
            if error.errno != errno.ENOEXEC:
                raise SpawnError(argv, 126, error.strerror or str(error)) from error
        return _posix_spawn("/bin/sh", ["/bin/sh", program, *argv[1:]], env, actions)  # as execvp(3) does
    finally:
        os.fchdir(before)
        os.close(before)


def _posix_spawn(program: str, argv: list[str], env: dict[str, str], actions: Actions) -> int:
    return os.posix_spawn(
        program,
        argv,
        env,
        file_actions=actions,
        setsid=True,
        setsigmask=[],
        setsigdef=_RESET,
    )


def find_program(argv: Sequence[str], env: Mapping[str, str]) -> str:
    """The file that *argv* names, looked up in the child's own PATH, as execvp(3) would.

    Raises:
        SpawnError: 127 where there is none, 126 where none may be executed.
    """
    name = argv[0]
    if not name:
        raise SpawnError(argv, 127, "an empty command")
    candidates = (
        [name] if "/" in name else [str(Path(d or ".") / name) for d in env.get("PATH", DEFAULT_PATH).split(":")]
    )
    found = [path for path in candidates if os.path.exists(path)]
    for path in found:
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path if "/" in path else f"./{path}"
    if not found:
        raise SpawnError(argv, 127, "command not found")
    raise SpawnError(argv, 126, "is a directory" if os.path.isdir(found[0]) else "permission denied")


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"  # a real-time signal

"""The command line in processes of its own, on pipes or on a terminal that a test types at and looks at.

Nothing here outlives its block or a minute: every wait has an end, and what still runs then is killed.
"""

from __future__ import annotations

import errno
import json
import os
import select
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from eventlog.events import Output, Recorded
from eventlog.sessions import Session
from eventlog.store import Store
from eventlog.verify import verify
from server.recorder.process import spawn
from server.recorder.pty import is_canonical, set_size

ROOT = Path(__file__).resolve().parents[2]
COMMAND = [sys.executable, "-m", "tools.cli.main"]
AGENT = [sys.executable, "-S", str(ROOT / "tools" / "fake_agent.py"), "--json"]
PATIENCE_S = 30.0


def agent(*steps: dict[str, Any]) -> list[str]:
    """The command line of a scripted child."""
    return [*AGENT, json.dumps({"step": steps})]


def wait_until(condition: Callable[[], object], why: str, timeout_s: float = PATIENCE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {why}"
        time.sleep(0.01)


class Done(NamedTuple):
    status: int
    out: bytes
    err: str

    @property
    def stdout(self) -> bytes:
        return self.out

    @property
    def session(self) -> str:
        return self.err.splitlines()[-1]


class Running(subprocess.Popen[bytes]):
    """A process that ends with its block, at the latest."""

    def __exit__(self, *exc: object) -> None:
        self.kill()
        self.wait(PATIENCE_S)
        for stream in (self.stdin, self.stdout, self.stderr):
            if stream is not None:
                stream.close()


class Steno:
    """``steno`` on one home: ``steno("run", "--", "true")`` waits for it, ``steno.start`` does not."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self._started: list[Running] = []
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("STENO_")}
        self.environment = inherited | {
            "STENO_HOME": str(home),
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm",
            "PS1": "$ ",
        }

    def __enter__(self) -> Steno:
        return self

    def __exit__(self, *exc: object) -> None:
        for process in self._started:
            process.__exit__()

    def __call__(self, *argv: object, stdin: bytes = b"") -> Done:
        done = subprocess.run(
            [*COMMAND, *map(str, argv)],
            input=stdin,
            capture_output=True,
            env=self.environment,
            timeout=2 * PATIENCE_S,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr.decode())

    def shell(self, script: str) -> Done:
        """*script* in bash, where ``steno`` is the command line."""
        words = f'steno() {{ {shlex.join(COMMAND)} "$@"; }}\n{script}'
        done = subprocess.run(
            ["bash", "--norc", "-c", words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=self.environment,
            timeout=2 * PATIENCE_S,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr.decode())

    def rows(self, *argv: object) -> list[dict[str, Any]]:
        """What that listing prints as JSON."""
        done = self(*argv, "--json")
        assert done.status == 0, done.err
        return [json.loads(line) for line in done.out.splitlines()]

    def start(self, *argv: object, **options: Any) -> Running:
        """Pipes for all three unless *options* say otherwise. It ends with its ``with`` block, or with the test."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        command = [*COMMAND, *map(str, argv)]
        self._started.append(Running(command, env=self.environment, bufsize=0, **(pipes | options)))
        return self._started[-1]

    # -- what is in the log, read by this process ------------------------------------------------------------------

    def sessions(self) -> list[Session]:
        if not (self.home / "log").is_dir() or not list((self.home / "log").glob("0*")):
            return []
        with Store(self.home / "log", create=False) as store:
            return store.sessions()

    def session(self) -> Session:
        """The newest; waits for the first."""
        wait_until(self.sessions, "a session has begun")
        return self.sessions()[-1]

    def events(self, session: str | None = None) -> list[Recorded]:
        with Store(self.home / "log", create=False) as store:
            return [event for record in store.records(session=session) for event in record.events()]

    def output(self, name: str | None = None) -> bytes:
        """Of a session, or of an agent's latest; of all where *name* is None."""
        named = [row.session for row in self.sessions() if name in (row.session, row.agent)]
        assert name is None or named, f"no session {name}"
        return b"".join(e.event.data for e in self.events(named[-1] if name else None) if isinstance(e.event, Output))

    def recorded(self, expected: bytes) -> None:
        """Wait until *expected* is in the log."""
        self.session()
        wait_until(lambda: expected in self.output(), f"{expected!r} is in the log")

    def ended(self) -> Session:
        """The newest session, once it has ended."""
        wait_until(lambda: not self.session().is_open, "the session has ended")
        return self.session()

    def verified(self) -> None:
        assert verify(self.home / "log") == []


def read_until(fd: int, expected: bytes | None, seen: bytes = b"") -> bytes:
    """All that comes from *fd* until *expected* is in it; None: until its end."""
    deadline = time.monotonic() + PATIENCE_S
    while expected is None or expected not in seen:
        ready = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))[0]
        assert ready, f"{expected!r} did not come, only {seen[-2000:]!r}"
        try:
            data = os.read(fd, 65_536)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            data = b""
        if not data:
            assert expected is None, f"{expected!r} did not come, only {seen[-2000:]!r}"
            break
        seen += data
    return seen


class Terminal:
    """A program whose controlling terminal, of 80 by 24 cells, is in the hands of a test."""

    def __init__(self, argv: Sequence[str], environment: dict[str, str]) -> None:
        self._process = spawn(argv, cwd=str(ROOT), env=environment, pty=True)
        self.fd = self._process.outputs["pty"]
        self.pid = self._process.pid
        self.seen = b""
        self._status: int | None = None

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def see(self, expected: bytes) -> bytes:
        """Wait until *expected* has been shown; what was shown up to and with it, and it is not looked at again."""
        self.seen = read_until(self.fd, expected, self.seen)
        end = self.seen.index(expected) + len(expected)
        shown, self.seen = self.seen[:end], self.seen[end:]
        return shown

    def resize(self, cols: int, rows: int) -> None:
        set_size(self.fd, cols, rows)

    def is_raw(self) -> bool:
        return not is_canonical(self.fd)

    def echoes(self) -> bool:
        return bool(termios.tcgetattr(self.fd)[3] & termios.ECHO)

    def rest(self) -> bytes:
        """What is shown until nobody holds the terminal any more."""
        return read_until(self.fd, None, self.seen)

    def hang_up(self) -> None:
        """Take the terminal away, as closing its window does."""
        self._process.close()
        self.fd = -1

    def close(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        if self.fd >= 0:
            self._process.close()
        os.waitpid(self.pid, 0)


@contextmanager
def terminal(steno: Steno, script: str) -> Iterator[Terminal]:
    """A terminal in which bash runs *script*, where ``steno`` is the command line. It does not outlive the block.

    bash leads the session, so that the terminal's modes are still there to be looked at when steno has ended: the
    kernel resets them when a session's leader goes.
    """
    words = f'steno() {{ {shlex.join(COMMAND)} "$@"; }}\n{script}'
    at = Terminal(["bash", "--norc", "-c", words], steno.environment)
    try:
        yield at
    finally:
        at.close()

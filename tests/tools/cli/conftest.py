"""The command line in this process, on a home of its own: no interpreter to start for each call."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from eventlog.store import Store
from tools.cli.main import main


class Done(NamedTuple):
    status: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """What ``--json`` printed."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def session(self) -> str:
        """What ``run`` printed last on stderr."""
        return self.err.splitlines()[-1]


class Steno:
    """``steno("sessions", "--json")`` calls the command line; its descriptors 1 and 2 are captured, 0 is *stdin*."""

    def __init__(self, home: Path, captured: pytest.CaptureFixture[bytes]) -> None:
        self.home = home
        self._captured = captured

    def __call__(self, *argv: str, stdin: bytes = b"") -> Done:
        self._captured.readouterr()
        before = os.dup(0)
        with tempfile.TemporaryFile() as file:
            file.write(stdin)
            file.seek(0)
            os.dup2(file.fileno(), 0)
            try:
                status = main(["--home", str(self.home), *argv])
            except SystemExit as exit_:  # argparse: --help, --version
                status = int(exit_.code or 0)
            finally:
                os.dup2(before, 0)
                os.close(before)
        out, err = self._captured.readouterr()
        return Done(status, out, err.decode())

    def run(self, *argv: str, stdin: bytes = b"") -> str:
        """Record ``argv`` on pipes; the session's id."""
        done = self("run", "--mode", "pipe", "--quiet", *argv, stdin=stdin)
        return done.session

    def store(self) -> Store:
        return Store(self.home / "log")


@pytest.fixture
def steno(tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Steno:
    for name in list(os.environ):
        if name.startswith("STENO_") or name in ("NO_COLOR", "COLUMNS", "LINES"):
            monkeypatch.delenv(name)
    return Steno(tmp_path / "home", capfdbinary)

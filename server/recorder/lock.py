"""Who is alive: each recorder holds a lock in ``run/`` while it lives, and the kernel frees it however it ends.

An open session whose recorder's lock is free is *lost*: whoever meets it says so, in the log. A recorder's name is
never used again, so a lock found free stays free.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import threading
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import lmdb

from eventlog.decisions import change_state
from eventlog.errors import EventLogError, LogRefusedError
from eventlog.events import OPEN_STATES
from eventlog.segment import WriteTransaction
from eventlog.sessions import Session
from eventlog.store import Build, Store, Stored

LOCK_WAIT_S = 1.0


class RecorderLock:
    """Held by this process until ``release`` or its end. ``name`` begins with the pid, for people."""

    def __init__(self, run: Path) -> None:
        self.name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._path = _path(run, self.name)
        self._fd = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX)  # it waits at most for one who tries every lock here, for an instant
        try:
            os.write(self._fd, json.dumps({"pid": os.getpid()}).encode())
        except OSError as error:
            self.release()
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def release(self) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self._fd)


def _path(run: Path, name: str) -> Path:
    return run / f"recorder-{name}.lock"


def is_alive(run: Path, recorder: str) -> bool:
    """Whether that recorder holds its lock; a shared lock asks, so that two who ask do not meet each other."""
    if "/" in recorder:
        return False
    try:
        fd = os.open(_path(run, recorder), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(fd)


def settle_lost(store: Store, run: Path) -> list[str]:
    """Append ``lost`` to every open session whose recorder is gone; their ids. Checked again inside the transaction.

    A log that cannot be written now, on a full disk or damaged, keeps no reader out: the next who meets them appends.
    """
    lost = [row for row in store.sessions() if is_lost(run, row)]
    if lost:
        append = threading.Thread(target=_append_lost, args=(store, run, lost), daemon=True)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTSTP})  # which the thread inherits: Ctrl-Z waits
        append.start()
        append.join(LOCK_WAIT_S)  # whoever holds the writer's lock may have been stopped: no reader waits for that
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return [row.session for row in lost]


def _append_lost(store: Store, run: Path, lost: list[Session]) -> None:
    with suppress(lmdb.Error, EventLogError, OSError):
        store.append([_lost(run, row) for row in lost])
        for recorder in {row.recorder for row in lost}:
            _path(run, recorder).unlink(missing_ok=True)


def is_lost(run: Path, row: Session) -> bool:
    return row.is_open and not is_alive(run, row.recorder)


def _lost(run: Path, row: Session) -> Build:
    change = change_state(row.session, "lost", "its recorder ended without saying so", only_if=OPEN_STATES)

    def build(txn: WriteTransaction) -> Sequence[Stored]:
        return [] if is_alive(run, row.recorder) else change(txn)

    return build


def claim_kernel(run: Path) -> None:
    """Refuse a home in use from another kernel or pid namespace, where neither pids nor LMDB's reader table hold.

    Raises:
        LogRefusedError: with the reason.
    """
    here = f"{_boot_id()} {os.stat('/proc/self/ns/pid').st_ino}"
    path = run / "kernel"
    try:
        there = path.read_text()
    except FileNotFoundError:
        there = ""
    if there == here:
        return
    if there and any(
        is_alive(run, lock.name[len("recorder-") : -len(".lock")]) for lock in run.glob("recorder-*.lock")
    ):
        raise LogRefusedError(run.parent, "in use by recorders of another kernel or pid namespace")
    new = run / f".kernel-{os.getpid()}"
    new.write_text(here)
    new.replace(path)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()

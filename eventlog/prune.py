"""Retention: whole segments go, oldest first, for an LMDB file never shrinks.

The newest segment always stays, and so does every segment from the first on that holds something of a running
session's last day, by that session's own clock: the 24 hours that end with its last event. A session that has said
nothing for a week keeps the day before it fell silent, which is what its viewer will ask for.

A segment is as old as its newest event. That is taken from its own session table, which stopped with it: no record
is read but the last one, for events that belong to no session.

Session rows stay for ever, carried from segment to segment: an id is never used again, and a session whose beginning
is gone stays listed. What is deleted here must still be dropped by the views, whose rows begin at ``Plan.first``.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import msgspec

from eventlog.codec import OutputRun, Record
from eventlog.errors import EventDecodeError
from eventlog.segment import segment_name
from eventlog.sessions import Session
from eventlog.store import AnySegment, Store

DAY_NS = 86_400 * 1_000_000_000
LOCK = "retention.lock"
GONE = ".gone-"


class Doomed(msgspec.Struct, frozen=True):
    """A segment that may go: its positions, what it takes on disk, the wall clock of its newest event."""

    first: int
    last: int
    bytes: int
    newest_at_ns: int


class Plan(msgspec.Struct, frozen=True):
    """What would be deleted, oldest first.

    gone: sessions all of whose events go. truncated: sessions that lose their beginning, or more of it.
    first: the oldest position that is kept. stopped: why nothing more goes, for people.
    """

    segments: list[Doomed]
    gone: list[str]
    truncated: list[str]
    first: int
    stopped: str

    @property
    def bytes(self) -> int:
        return sum(segment.bytes for segment in self.segments)


def plan(
    store: Store,
    *,
    now_ns: int,
    older_than_ns: int | None = None,
    keep_bytes: int | None = None,
    is_running: Callable[[Session], bool] = lambda row: row.is_open,
) -> Plan:
    """What may go of the log: nothing is changed.

    Args:
        older_than_ns: a duration. A segment goes when its newest event is that much older than *now_ns*, wall clock.
        keep_bytes: the oldest go until the log takes no more than this on disk. Given both, either is reason enough.
        is_running: told a row of the session table. A session that should be ``lost`` still looks open.
    """
    if older_than_ns is None and keep_bytes is None:
        raise ValueError("neither an age nor a size is given")
    rows = {row.session: row for row in store.sessions()}
    held_from, held_by = _held(store, [row for row in rows.values() if is_running(row)])
    segments = store.segments()
    left_bytes = sum(disk_bytes(store.directory / segment_name(first)) for first in segments)
    doomed: list[Doomed] = []
    touched: set[str] = set()
    stopped = "the newest segment always stays"
    kept = segments[0]
    for first, following in pairwise(segments):
        size = disk_bytes(store.directory / segment_name(first))
        with store.using(first) as segment:
            newest_at_ns, sessions = _newest_at_ns(segment, now_ns), _sessions_in(segment)
        too_old = older_than_ns is not None and newest_at_ns < now_ns - older_than_ns
        too_big = keep_bytes is not None and left_bytes > keep_bytes
        if not (too_old or too_big):
            stopped = "the rest is within the limit"
            break
        if held_from is not None and held_from < following:
            stopped = f"session {held_by} is running and its last day begins at position {held_from}"
            break
        doomed.append(Doomed(first, following - 1, size, newest_at_ns))
        touched |= sessions
        left_bytes -= size
        kept = following
    gone = {name for name in touched if name not in rows or rows[name].last_position < kept}
    return Plan(doomed, sorted(gone), sorted(touched - gone), kept, stopped)


def _held(store: Store, running: list[Session]) -> tuple[int | None, str]:
    """The first position of any running session's last day, and whose it is."""
    held: tuple[int | None, str] = None, ""
    for row in running:
        if row.last_position < store.first:
            continue
        position = _last_day(store, row)
        if held[0] is None or position < held[0]:
            held = position, row.session
    return held


def _last_day(store: Store, row: Session) -> int:
    since_ns = max(0, row.last_elapsed_ns - DAY_NS)
    position = store.session_start(row.session, since_ns)
    try:
        for record in store.records(position, row.last_position, row.session):
            if _ended_ns(record) >= since_ns:
                return record.first
    except EventDecodeError:
        return position + 1  # what cannot be read may be of that day
    return row.last_position


def _ended_ns(record: Record) -> int:
    event = record.event
    return event.reads[-1][0] if isinstance(event, OutputRun) else record.elapsed_ns


def _rows_in(segment: AnySegment) -> list[Session]:
    return [row for row in segment.sessions() if row.last_position >= segment.first]


def _sessions_in(segment: AnySegment) -> set[str]:
    return {row.session for row in _rows_in(segment)}


def _newest_at_ns(segment: AnySegment, unknown_ns: int) -> int:
    """*unknown_ns* where nothing of the segment can be read: age alone is then no reason to delete it."""
    times = [row.started_at_ns + row.last_elapsed_ns for row in _rows_in(segment)]
    try:
        for record in segment.read(segment.head() - 1, 1).records:
            times.append(record.at_ns - record.elapsed_ns + _ended_ns(record))
    except EventDecodeError:
        pass
    return max(times, default=unknown_ns)


def prune(store: Store, plan: Plan) -> int:
    """Delete what *plan* names and is still the oldest of the log; return the bytes this gave back.

    Readers, of this process and others, go on: one that stands in a deleted segment finds itself at the new first
    position. Another prune, or a backup, that is under way is waited for.
    """
    freed = 0
    with retention_lock(store.directory):
        for left_over in store.directory.glob(f"{GONE}*"):
            shutil.rmtree(left_over, ignore_errors=True)  # of a prune that was killed
        for doomed in plan.segments:
            segments = store.segments()
            if doomed.first not in segments:
                continue  # another prune was faster
            if doomed.first != segments[0] or len(segments) == 1:
                break
            freed += _remove(store, doomed.first)
    return freed


def _remove(store: Store, first: int) -> int:
    path = store.directory / segment_name(first)
    size = disk_bytes(path)
    gone = store.directory / f"{GONE}{first}"
    path.rename(gone)  # at once and whole: nobody finds a segment half deleted
    store.forget(first)
    shutil.rmtree(gone)
    return size


@contextmanager
def retention_lock(directory: Path, *, shared: bool = False) -> Iterator[None]:
    """Held by whoever deletes segments; *shared* by those who need that none is deleted meanwhile. Waits for it."""
    fd = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def disk_bytes(path: Path) -> int:
    """What a segment takes on disk; its file may be sparse. 0: it is gone."""
    try:
        return sum(entry.stat().st_blocks * 512 for entry in os.scandir(path))
    except FileNotFoundError:
        return 0

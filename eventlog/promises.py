"""What a session's events promise, checked one record after another. Pure: verify.py brings the records.

A session starts first, exits at most once and after its output; its elapsed time does not fall and each state goes
on from the one before; an output event has at most one LF, as its last byte, and 64 KiB; the totals of its exit and
its row in the session table are the fold of its events.

One damage is one finding. What could not be read is told by ``lost``, and from then on nothing is claimed about
what may have stood there: a session's totals, its state, its beginning.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec

from eventlog.codec import OutputRun, Record
from eventlog.events import NAMES, SessionExited, SessionStarted, StateChanged
from eventlog.sessions import Session, fold

MAX_OUTPUT_BYTES = 64 << 10  # the contract's limit of an unterminated tail, and so of every output event

Promise = Literal[
    "segments",  # each file is readable, in a format we know, and begins where the one before ends
    "positions",  # 1, 2, 3 … without gap or overlap
    "checksum",
    "decoding",
    "index",  # who reads one session meets all of it
    "started_first",
    "exited_once",
    "exited_last",  # no output after session_exited
    "elapsed",
    "one_line",
    "states",
    "totals",
    "table",
]


class Finding(msgspec.Struct, frozen=True):
    """A broken *promise* at *position*: the first one affected."""

    position: int
    promise: Promise
    detail: str


class _Seen(msgspec.Struct):
    """What is known of a session so far."""

    last: int  # of its last record
    elapsed_ns: int
    row: Session | None = None  # the fold; None: not all its events were read
    whole: bool = True  # all its records from the first one here on were read, and the first one was right
    state: str | None = None  # None: the next one is believed
    exited: bool = False
    late: bool = False  # output after the exit was found; once is enough


class Promises:
    """The sessions of a log that begins at *first*; *table* is its session table, None where that cannot be read."""

    def __init__(self, first: int, table: dict[str, Session] | None) -> None:
        self._first = first
        self._table = table
        self._seen: dict[str, _Seen] = {}
        self._lost: list[tuple[int, int]] = []

    def lost(self, first: int, last: int, session: str | None = None) -> None:
        """Positions *first* to *last* could not be read, and belong to *session*, as far as that can be told."""
        self._lost.append((first, last))
        table = self._table or {}
        for name, seen in self._seen.items():
            row = table.get(name)
            if session in (None, name) and (row is None or row.last_position >= first):
                seen.row, seen.state, seen.whole = None, None, False

    def has_row(self, session: str) -> bool:
        return session in (self._table or {})

    def is_known(self, session: str) -> bool:
        return session in self._seen or self.has_row(session)

    def record(self, record: Record) -> Iterator[Finding]:
        """Check *record*, the next one that was read."""
        session, event = record.session, record.event
        if session is None:
            return
        seen = self._seen.get(session)
        if isinstance(event, SessionStarted):
            if seen is None:
                seen = _Seen(record.last, record.elapsed_ns, fold(None, record), state="starting")
            else:
                yield Finding(record.first, "started_first", f"{session} starts again")
                seen = _Seen(record.last, record.elapsed_ns, whole=False, state="starting")
            self._seen[session] = seen
        elif seen is None:
            seen = self._seen[session] = _Seen(record.last, record.elapsed_ns)
            if not self._began_unread(session):
                name = NAMES.get(type(event), "output")
                yield Finding(record.first, "started_first", f"{session} begins with {name}")
                seen.whole = False
        elif isinstance(event, SessionExited):
            yield from self._exited(record, event, seen)
        if isinstance(event, OutputRun):
            yield from self._output(record, event, seen)
        elif record.elapsed_ns < seen.elapsed_ns:
            yield _fallen(record.first, session, seen.elapsed_ns, record.elapsed_ns)
        if isinstance(event, StateChanged):
            if seen.state not in (None, event.from_):
                detail = f"{session} goes from {event.from_} to {event.to}, but was {seen.state}"
                yield Finding(record.first, "states", detail)
            seen.state = event.to
        if seen.row is not None and not isinstance(event, SessionStarted):
            fold(seen.row, record)
        seen.exited = seen.exited or isinstance(event, SessionExited)
        seen.elapsed_ns = event.reads[-1][0] if isinstance(event, OutputRun) else record.elapsed_ns
        seen.last = record.last

    def _exited(self, record: Record, event: SessionExited, seen: _Seen) -> Iterator[Finding]:
        if seen.exited:
            yield Finding(record.last, "exited_once", f"{record.session} exits again")
        elif seen.row is not None and (event.lines, event.bytes) != (seen.row.lines, seen.row.bytes):
            detail = (
                f"{record.session} exits with {event.lines} lines and {event.bytes} bytes, "
                f"its output has {seen.row.lines} and {seen.row.bytes}"
            )
            yield Finding(record.last, "totals", detail)

    def _output(self, record: Record, event: OutputRun, seen: _Seen) -> Iterator[Finding]:
        assert record.session is not None
        if seen.exited and not seen.late:
            seen.late = True
            yield Finding(record.first, "exited_last", f"{record.session} has output after its exit")
        position = record.first
        elapsed_ns = seen.elapsed_ns
        for now_ns, lines in event.reads:
            if now_ns < elapsed_ns:
                yield _fallen(position, record.session, elapsed_ns, now_ns)
            elapsed_ns = now_ns
            # As many LF as lines that end in one: no line has another. Cheaper than to look into each.
            ended = sum(line.endswith(b"\n") for line in lines)
            if ended != b"".join(lines).count(b"\n") or max(map(len, lines), default=0) > MAX_OUTPUT_BYTES:
                for at, line in enumerate(lines, position):
                    if b"\n" in line[:-1]:
                        yield Finding(at, "one_line", f"{record.session} has an output event of several lines")
                    if len(line) > MAX_OUTPUT_BYTES:
                        yield Finding(at, "one_line", f"{record.session} has an output event of {len(line)} bytes")
            position += len(lines)

    def _began_unread(self, session: str) -> bool:
        """Whether the session's first events were pruned or lost, as far as can be told."""
        row = (self._table or {}).get(session)
        if row is None:
            return self._table is None or bool(self._lost)
        return row.first_position < self._first or self._was_lost(row.first_position, row.first_position)

    def _was_lost(self, first: int, last: int) -> bool:
        return any(begin <= last and end >= first for begin, end in self._lost)

    def finish(self) -> Iterator[Finding]:
        """The session table against the fold, when every record up to the table's commit was given."""
        if self._table is None:
            return
        for name, row in self._table.items():
            seen = self._seen.get(name)
            if seen is None:
                if row.last_position >= self._first and not self._was_lost(row.first_position, row.last_position):
                    yield Finding(row.last_position, "table", f"{name} has a row, but no event")
            elif seen.row is not None and seen.row != row:
                yield Finding(seen.last, "table", f"{name}: {_difference(row, seen.row)}")
            elif seen.whole and seen.last != row.last_position:
                detail = f"{name}: its row ends at {row.last_position}, its events at {seen.last}"
                yield Finding(seen.last, "table", detail)
        for name, seen in self._seen.items():
            if name not in self._table and seen.whole:
                yield Finding(seen.last, "table", f"{name} has events, but no row")


def _fallen(position: int, session: str, from_ns: int, to_ns: int) -> Finding:
    return Finding(position, "elapsed", f"{session} goes back in time by {from_ns - to_ns} ns")


def _difference(row: Session, folded: Session) -> str:
    names = [name for name in Session.__struct_fields__ if getattr(row, name) != getattr(folded, name)]
    return ", ".join(f"its row says {name} {getattr(row, name)}, its events {getattr(folded, name)}" for name in names)

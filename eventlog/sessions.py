"""The session table: one row a session, a fold of its events by ONE pure function.

The log's own write transactions keep it, so whoever opens the log knows at once which sessions there are, which are
open and who records them, without reading an event. Projections fold with the same function.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

import msgspec

from eventlog.codec import OutputRun, Record
from eventlog.events import (
    OPEN_STATES,
    Command,
    Resized,
    SessionExited,
    SessionStarted,
    State,
    StateChanged,
)

AGENT_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Session(msgspec.Struct, array_like=True, omit_defaults=False):
    """One row. Times are nanoseconds since 1970, wall clock; positions are inclusive; *lines* counts LF bytes."""

    session: str
    agent: str
    argv: list[str]
    cwd: str
    mode: str
    cols: int
    rows: int
    host: str
    tags: dict[str, str]
    recorder: str
    source: str
    started_at_ns: int
    first_position: int
    last_position: int
    state: State = "starting"
    pid: int | None = None
    lines: int = 0
    bytes: int = 0
    last_elapsed_ns: int = 0
    last_output_at_ns: int | None = None
    ended_at_ns: int | None = None
    exit_code: int | None = None
    signal: str | None = None
    duration_ns: int | None = None
    killed: bool = False  # a steno ``kill`` was asked for: it ends as ``killed`` whatever its status

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES


def fold(row: Session | None, record: Record) -> Session | None:
    """*row* after *record*, whose ``last`` is known; *row* is changed in place. None: the record is of no session."""
    event = record.event
    if isinstance(event, SessionStarted):
        assert record.session is not None
        return Session(
            session=record.session,
            agent=event.agent,
            argv=event.argv,
            cwd=event.cwd,
            mode=event.mode,
            cols=event.cols,
            rows=event.rows,
            host=event.host,
            tags=event.tags,
            recorder=event.recorder,
            source=event.source,
            started_at_ns=record.at_ns,
            first_position=record.last,
            last_position=record.last,
        )
    if row is None:
        return None
    row.last_position = record.last
    if isinstance(event, OutputRun):
        for _, lines in event.reads:
            data = b"".join(lines)
            row.bytes += len(data)
            row.lines += data.count(b"\n")
        row.last_elapsed_ns = event.reads[-1][0]
        row.last_output_at_ns = record.at_ns - record.elapsed_ns + row.last_elapsed_ns
        return row
    row.last_elapsed_ns = max(row.last_elapsed_ns, record.elapsed_ns)
    if isinstance(event, StateChanged):
        row.state = event.to
        row.pid = event.pid if event.pid is not None else row.pid
        if not row.is_open:
            row.ended_at_ns = record.at_ns
            if row.duration_ns is None:
                row.duration_ns = record.elapsed_ns
    elif isinstance(event, SessionExited):
        row.exit_code, row.signal, row.duration_ns = event.exit_code, event.signal, event.duration_ns
    elif isinstance(event, Resized):
        row.cols, row.rows = event.cols, event.rows
    elif isinstance(event, Command) and event.verb == "kill":
        row.killed = True
    return row


def session_id(agent: str, started_at_ns: int, number: int = 1) -> str:
    """``{agent}-{YYYYMMDD}-{HHMMSS}`` in UTC; the second of that name in one second ends in ``-2``."""
    stamp = datetime.fromtimestamp(started_at_ns // 1_000_000_000, UTC).strftime("%Y%m%d-%H%M%S")
    return f"{agent}-{stamp}" if number == 1 else f"{agent}-{stamp}-{number}"

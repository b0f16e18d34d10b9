"""An event as people and programs read it: the JSON object of the contract's section 5, and a session's row.

Bytes are ``text`` where they are valid UTF-8, else ``data_b64``; exactly one of the two. Times are RFC 3339 in UTC.
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import msgspec

from eventlog.events import NAMES, Input, Output, Recorded, Unknown
from eventlog.sessions import Session


def event_object(recorded: Recorded, agent: str | None) -> dict[str, Any]:
    """The object of one event; *agent* is its session's."""
    event = recorded.event
    form: dict[str, Any] = {
        "position": recorded.position,
        "session": recorded.session,
        "agent": agent,
        "at": rfc3339(recorded.at_ns),
        "elapsed_s": recorded.elapsed_ns / 1e9,
        "type": NAMES[type(event)],
    }
    if isinstance(event, Output):
        form["stream"] = event.stream
        _put_bytes(form, event.data)
    elif isinstance(event, Input):
        _put_bytes(form, event.data)
        form.update(length=event.length, masked=event.masked, source=event.source)
    elif isinstance(event, Unknown):
        form.update(event_type=event.type, data_b64=base64.b64encode(event.raw).decode())
    else:
        for field in msgspec.structs.fields(event):
            form[field.encode_name] = getattr(event, field.name)
    return form


def _put_bytes(form: dict[str, Any], data: bytes | None) -> None:
    if data is None:
        form["text"] = None  # masked: its length is all there is
        return
    try:
        form["text"] = data.decode("utf-8")
    except UnicodeDecodeError:
        form["data_b64"] = base64.b64encode(data).decode()


def session_object(row: Session, *, first: int, now_ns: int) -> dict[str, Any]:
    """The row of one session. *first*: the oldest position kept; *now_ns*: the wall clock, for ``idle_s``."""
    quiet_since = row.last_output_at_ns or row.started_at_ns
    return {
        "session": row.session,
        "agent": row.agent,
        "state": row.state,
        "mode": row.mode,
        "argv": row.argv,
        "cwd": row.cwd,
        "tags": row.tags,
        "started_at": rfc3339(row.started_at_ns),
        "ended_at": _time(row.ended_at_ns),
        "duration_s": None if row.duration_ns is None else row.duration_ns / 1e9,
        "exit_code": row.exit_code,
        "signal": row.signal,
        "lines": row.lines,
        "bytes": row.bytes,
        "cols": row.cols,
        "rows": row.rows,
        "pid": row.pid,
        "host": row.host,
        "recorder": recorder_pid(row.recorder),
        "last_output_at": _time(row.last_output_at_ns),
        "idle_s": max(0, now_ns - quiet_since) / 1e9 if row.is_open else None,
        "first_position": row.first_position,
        "last_position": row.last_position,
        "truncated": row.first_position < first,
    }


def recorder_pid(recorder: str) -> int | None:
    """A recorder's name begins with its pid; one that recorded nothing itself (an import) has none."""
    pid = recorder.split("-")[0]
    return int(pid) if pid.isdigit() else None


def rfc3339(at_ns: int) -> str:
    """Nanoseconds since 1970 as ``2026-11-22T10:15:00.123456789Z``."""
    seconds, nanoseconds = divmod(at_ns, 1_000_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{nanoseconds:09d}Z"


def _time(at_ns: int | None) -> str | None:
    return None if at_ns is None else rfc3339(at_ns)

"""The facts a log holds: one immutable Struct an event, named by the tag that people and programs see.

Events are facts in the past tense; what asks for something is a request and lives elsewhere. Fields are only ever
appended, with defaults, never renamed, retyped or reused; a changed meaning is a new event. Stored they are arrays
(no field names), tagged by a small integer, so an event of 200 bytes costs 200 bytes.

``Recorded`` is an event with its place: position, session and the two clocks.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Stream = Literal["pty", "stdout", "stderr"]
State = Literal["starting", "running", "paused", "exited", "failed", "killed", "lost"]

OPEN_STATES = frozenset({"starting", "running", "paused"})


class SessionStarted(msgspec.Struct, array_like=True, frozen=True, tag=1):
    """A session exists; committed before its child is started. *recorder* names the lock in ``run/``."""

    agent: str
    argv: list[str]
    cwd: str
    mode: Literal["pty", "pipe"]
    cols: int
    rows: int
    host: str
    tags: dict[str, str]
    recorder: str
    source: Literal["cli", "api", "import"]


class Output(msgspec.Struct, frozen=True, gc=False):
    """ONE line with its terminator, or an unterminated fragment of one, as read. Stored in runs: see codec.py."""

    stream: Stream
    data: bytes


class Input(msgspec.Struct, array_like=True, frozen=True, tag=3):
    """Bytes the terminal or pipe accepted; *data* is null where they were masked, *length* is true all the same."""

    data: bytes | None
    length: int
    masked: bool
    source: str


class Resized(msgspec.Struct, array_like=True, frozen=True, tag=4):
    cols: int
    rows: int
    source: str


class StateChanged(msgspec.Struct, array_like=True, frozen=True, tag=5, rename={"from_": "from"}):
    from_: State
    to: State
    reason: str
    pid: int | None = None


class Command(msgspec.Struct, array_like=True, frozen=True, tag=6):
    """Someone asked for *verb*; durable before its effect. Input never stands in *arguments*."""

    id: str
    verb: str
    arguments: dict[str, str | int | float | bool | None]
    requested_by: str


class CommandOutcome(msgspec.Struct, array_like=True, frozen=True, tag=7):
    id: str
    outcome: Literal["ok", "failed", "unknown"]
    error: str | None = None


class Marker(msgspec.Struct, array_like=True, frozen=True, tag=8):
    label: str
    source: str


class RulesChanged(msgspec.Struct, array_like=True, frozen=True, tag=9):
    """The whole resolved rule set in force from here on; belongs to no session."""

    digest: str
    text: str


class Gap(msgspec.Struct, array_like=True, frozen=True, tag=10):
    """*lost_bytes* of output are missing here: the only honest way to lose output."""

    stream: Stream
    lost_bytes: int
    reason: str


class SessionExited(msgspec.Struct, array_like=True, frozen=True, tag=11):
    """The child ended. *lines* and *bytes* count all output of the session, *rusage* is wait4's, in seconds and KiB."""

    exit_code: int | None
    signal: str | None
    duration_ns: int
    lines: int
    bytes: int
    output_open: bool
    rusage: dict[str, float]


class Unknown(msgspec.Struct, frozen=True):
    """An event of a newer program: kept, numbered, not understood. *raw* is its msgpack."""

    type: int
    raw: bytes


Event = (
    SessionStarted
    | Output
    | Input
    | Resized
    | StateChanged
    | Command
    | CommandOutcome
    | Marker
    | RulesChanged
    | Gap
    | SessionExited
    | Unknown
)

NAMES: dict[type, str] = {
    SessionStarted: "session_started",
    Output: "output",
    Input: "input",
    Resized: "resized",
    StateChanged: "state_changed",
    Command: "command",
    CommandOutcome: "command_outcome",
    Marker: "marker",
    RulesChanged: "rules_changed",
    Gap: "gap",
    SessionExited: "session_exited",
    Unknown: "unknown",
}


class Recorded(msgspec.Struct, frozen=True):
    """An event and its place in the log.

    position: 1, 2, 3 … without gaps over the whole log; order is by position only.
    session: None for what concerns the whole log (``rules_changed``).
    at_ns: wall clock, nanoseconds since 1970. elapsed_ns: CLOCK_BOOTTIME since the session began.
    """

    position: int
    session: str | None
    at_ns: int
    elapsed_ns: int
    event: Event

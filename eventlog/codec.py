"""Stored bytes <-> events. One LMDB value is one *record*: a msgpack array and its checksum.

    [version, type, session, at_ns, elapsed_ns, [type, …fields]] ++ xxh32 of all before it (4 bytes, big-endian)

Everything but output is one event a record. Output lines are stored in *runs*: consecutive lines of one session and
stream share a record, as Kafka's record batches do (KIP-98: base offset, one checksum a batch). Each line is still an
event with a position, a time and a length of its own; what they share is the envelope:

    output: [2, stream, [[elapsed_ns, [line, line, …]], …]]      one inner pair for each read(2) that brought them

Why runs: 1.6 M lines of 53 bytes from a PTY, durable, in one run of a spike beside script(1): a record a line took
2.0-3.2 times script's time and 202 MB, runs 0.8-1.3 times and 88 MB (3.4 s of CPU against 1.05).

The checksum is xxHash's 32 bit: zlib's crc32 cost 320 ns for 110 bytes here, xxh32 88 ns; LMDB has none of its own.
version and type stand at fixed offsets 1 and 2 and the session begins at 3, so readers filter without decoding.

Evolution: stored bytes are never rewritten. Fields are appended with defaults; where that is not enough the type's
version rises and an upcaster, a pure function over the decoded array, lifts the old form to the next at read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import msgspec
from xxhash import xxh32_digest

from eventlog.errors import EventDecodeError
from eventlog.events import (
    NAMES,
    Command,
    CommandOutcome,
    Event,
    Gap,
    Input,
    Marker,
    Output,
    Recorded,
    Resized,
    RulesChanged,
    SessionExited,
    SessionStarted,
    StateChanged,
    Stream,
    Unknown,
)

Read = tuple[int, list[bytes]]  # elapsed_ns of one read(2), and the lines and fragments that begin in it

OUTPUT = 2  # the tag of a run; Output itself is never encoded alone
CHECKSUM_BYTES = 4
TYPE_OFFSET = 2
SESSION_OFFSET = 3


class OutputRun(msgspec.Struct, array_like=True, frozen=True, tag=OUTPUT):
    """Consecutive output events of one session and stream, as stored. Never empty, and no read of it is."""

    stream: Stream
    reads: list[Read]


StoredEvent = (
    SessionStarted
    | OutputRun
    | Input
    | Resized
    | StateChanged
    | Command
    | CommandOutcome
    | Marker
    | RulesChanged
    | Gap
    | SessionExited
)


class _Envelope(msgspec.Struct, array_like=True):
    version: int
    type: int
    session: str | None
    at_ns: int
    elapsed_ns: int
    event: Any


class _RawEnvelope(_Envelope, array_like=True):
    event: msgspec.Raw


class Record(msgspec.Struct):
    """One stored record, decoded: *count* events that end at position *last*.

    ``at_ns`` and ``elapsed_ns`` are its first event's; those of a later read differ from them by the same amount,
    because a session's wall clock is read once, at its start.
    """

    session: str | None
    at_ns: int
    elapsed_ns: int
    event: StoredEvent | Unknown
    last: int = 0  # known only inside the write transaction, and after a read

    @property
    def count(self) -> int:
        event = self.event
        return sum(len(lines) for _, lines in event.reads) if isinstance(event, OutputRun) else 1

    @property
    def first(self) -> int:
        return self.last - self.count + 1

    def events(self) -> Iterator[Recorded]:
        """The record's events, one by one."""
        event = self.event
        if not isinstance(event, OutputRun):
            yield Recorded(self.last, self.session, self.at_ns, self.elapsed_ns, event)
            return
        began_ns = self.at_ns - self.elapsed_ns
        position = self.first
        for elapsed_ns, lines in event.reads:
            for line in lines:
                yield Recorded(position, self.session, began_ns + elapsed_ns, elapsed_ns, Output(event.stream, line))
                position += 1

    def after(self, position: int) -> Record | None:
        """What of the record lies after *position*: itself, a shorter run, or None."""
        if position < self.first:
            return self
        if position >= self.last or not isinstance(self.event, OutputRun):
            return None
        skip = position - self.first + 1
        reads: list[Read] = []
        for elapsed_ns, lines in self.event.reads:
            if skip < len(lines):
                reads.append((elapsed_ns, lines[skip:]))
            skip = max(0, skip - len(lines))
        return output_record(self.session, self.at_ns - self.elapsed_ns, self.event.stream, reads, self.last)


def output_record(session: str | None, began_ns: int, stream: Stream, reads: list[Read], last: int = 0) -> Record:
    """A run of *reads*; *began_ns* is the wall clock at the session's start."""
    elapsed_ns = reads[0][0]
    return Record(session, began_ns + elapsed_ns, elapsed_ns, OutputRun(stream, reads), last)


# From (type, version) to the array of the next version. Version 1 is the first that shipped, so the table is empty.
Upcaster = Callable[[list[Any]], list[Any]]
UPCASTERS: dict[tuple[int, int], Upcaster] = {}

_ENCODE = msgspec.msgpack.Encoder().encode
_DECODERS: dict[int, Callable[[bytes], _Envelope]] = {}
VERSIONS: dict[int, int] = {}
TYPE_NAMES: dict[int, str] = {}
TYPES: dict[type, int] = {}

for _type in (
    SessionStarted,
    OutputRun,
    Input,
    Resized,
    StateChanged,
    Command,
    CommandOutcome,
    Marker,
    RulesChanged,
    Gap,
    SessionExited,
):
    _tag = _type.__struct_config__.tag
    assert isinstance(_tag, int)
    TYPES[_type] = _tag
    TYPE_NAMES[_tag] = NAMES.get(_type, "output")
    VERSIONS[_tag] = 1


def _decoder(tag: int) -> Callable[[bytes], _Envelope]:
    # One decoder a type, built when its first record is met: the union's decoder is slower and all of them cost 5 ms.
    known = next(t for t, number in TYPES.items() if number == tag)
    typed = msgspec.defstruct("_Stored", [("event", known)], bases=(_Envelope,), array_like=True)
    decode = cast("Callable[[bytes], _Envelope]", msgspec.msgpack.Decoder(typed).decode)
    _DECODERS[tag] = decode
    return decode


def encode(record: Record) -> bytes:
    """The stored form of *record*, whose position is not part of it."""
    if isinstance(record.event, Unknown):
        raise TypeError("an Unknown event is only ever read")
    number = TYPES[type(record.event)]
    body = _ENCODE(_Envelope(VERSIONS[number], number, record.session, record.at_ns, record.elapsed_ns, record.event))
    return body + xxh32_digest(body)


def decode(last: int, value: bytes) -> Record:
    """The record stored under *last*.

    Raises:
        EventDecodeError: the checksum is wrong or the bytes are not a record.
    """
    body = value[:-CHECKSUM_BYTES]
    if len(value) <= CHECKSUM_BYTES + SESSION_OFFSET or xxh32_digest(body) != value[-CHECKSUM_BYTES:]:
        raise EventDecodeError(last, "the record's checksum is wrong")
    version, number = value[1], value[2]
    try:
        if VERSIONS.get(number) == version:
            stored = (_DECODERS.get(number) or _decoder(number))(body)
            event = stored.event
        else:
            stored, event = _decode_other(body, version, number)
    except (msgspec.DecodeError, ValueError) as error:
        raise EventDecodeError(last, f"not an event: {error}") from error
    return Record(stored.session, stored.at_ns, stored.elapsed_ns, event, last)


def _decode_other(body: bytes, version: int, number: int) -> tuple[_Envelope, StoredEvent | Unknown]:
    """A record of an older version is upcast; of a newer version or an unknown type it is kept as it is."""
    wanted = VERSIONS.get(number)
    if wanted is None or version > wanted:
        raw = msgspec.msgpack.decode(body, type=_RawEnvelope)
        return raw, Unknown(number, bytes(raw.event))
    array: list[Any] = msgspec.msgpack.decode(body)
    while version < wanted:
        array = UPCASTERS[number, version](array)
        version += 1
    known = next(t for t, tag in TYPES.items() if tag == number)
    return _Envelope(*array[:6]), msgspec.convert(array[5], known)


def is_intact(value: bytes) -> bool:
    """Whether a stored record's checksum is right."""
    return xxh32_digest(value[:-CHECKSUM_BYTES]) == value[-CHECKSUM_BYTES:]


def is_of(value: bytes, session_prefix: bytes) -> bool:
    """Whether a stored record belongs to the session whose ``session_prefix`` this is, without decoding it."""
    return value.startswith(session_prefix, SESSION_OFFSET)


def session_prefix(session: str) -> bytes:
    return _ENCODE(session)


def records_of(session: str | None, at_ns: int, elapsed_ns: int, events: Sequence[Event]) -> list[Record]:
    """*events* of one moment as records: consecutive outputs of one stream become one run."""
    records: list[Record] = []
    lines: list[bytes] = []
    stream = None
    for event in events:
        if not isinstance(event, Output):
            stream = None
            records.append(Record(session, at_ns, elapsed_ns, event))
        elif event.stream == stream:
            lines.append(event.data)
        else:
            stream, lines = event.stream, [event.data]
            records.append(Record(session, at_ns, elapsed_ns, OutputRun(stream, [(elapsed_ns, lines)])))
    return records
